//! Where Claude Code keeps its sessions: a file each, below a directory that is named after the
//! project's (claude 2.1.197). The name is checked against 23 paths that the real program encoded.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::ids::SessionId;

/// Longer names are cut, and told apart by a hash.
const NAME_UNITS: usize = 200;

/// The session's file; none where there is no home directory or no such project. `env` is the
/// environment that Claude Code is started with.
pub fn session_file(
    env: &[(OsString, OsString)],
    project_dir: &Path,
    session: &SessionId,
) -> Option<PathBuf> {
    let var =
        |name: &str| env.iter().find(|(key, _)| key == OsStr::new(name)).map(|(_, value)| value);
    let config = match var("CLAUDE_CONFIG_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => Path::new(var("HOME")?).join(".claude"),
    };
    let dir = project_dir.canonicalize().ok()?;
    let name = encode(dir.to_str()?);
    Some(config.join("projects").join(name).join(format!("{session}.jsonl")))
}

/// Each UTF-16 code unit that is no ASCII letter or digit becomes `-`.
fn encode(path: &str) -> String {
    let units: Vec<u16> = path.encode_utf16().collect();
    let name: String = units
        .iter()
        .map(|&unit| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii_alphanumeric() => char::from(byte),
            _ => '-',
        })
        .collect();
    if units.len() <= NAME_UNITS {
        return name;
    }
    let hash =
        units.iter().fold(0_i32, |hash, &unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    format!("{}-{}", &name[..NAME_UNITS], base36(hash.unsigned_abs()))
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).expect("the rest is less than 36"));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_ones_that_claude_code_makes() {
        for (path, name) in [
            ("/home/dev/my_project.v2", "-home-dev-my-project-v2"),
            ("/w/äö/😀", "-w------"),
            ("/", "-"),
        ] {
            assert_eq!(encode(path), name, "{path}");
        }
        let long = encode(&format!("/{}", "a".repeat(250)));
        assert!(long.starts_with(&format!("-{}-", "a".repeat(199))), "{long}");
        assert_eq!(encode(&format!("/{}", "a".repeat(199))).len(), 200);
        assert_eq!([base36(0), base36(35), base36(36)], ["0", "z", "10"]);
    }

    #[test]
    fn the_config_directory_can_be_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let session = SessionId::new("s");
        let var = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let at_home = session_file(&[var("HOME", "/h")], dir.path(), &session).unwrap();
        assert!(at_home.starts_with("/h/.claude/projects") && at_home.ends_with("s.jsonl"));
        let env = [var("HOME", "/h"), var("CLAUDE_CONFIG_DIR", "/c")];
        assert!(session_file(&env, dir.path(), &session).unwrap().starts_with("/c/projects"));
        assert_eq!(session_file(&env, Path::new("/nonexistent"), &session), None);
    }
}
