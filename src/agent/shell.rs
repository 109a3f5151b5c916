//! Command lines as the shell will see them. Engines wrap them in a shell's own command line; what
//! a policy matches, and a person reads, is what the shell is told. The subject of a question is
//! what may be allowed, so it is always all that would run. Pure.

use std::ffi::OsString;

/// The shell that an engine gives its command lines to, as far as it matters how it reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// As bash, dash, ksh, mksh and zsh read it where they agree.
    Bourne,
    /// In a way that is not known here: csh, fish and the like. Only plain words are sure.
    Other,
}

/// For engines that look for bash, zsh or sh, whatever the user's own shell is.
pub fn bourne(_: &[(OsString, OsString)]) -> Shell {
    Shell::Bourne
}

/// For engines that use `$SHELL`, or else `sh`.
pub fn of_environment(env: &[(OsString, OsString)]) -> Shell {
    let shell = env.iter().rfind(|(name, value)| name == "SHELL" && !value.is_empty());
    let name = shell.map_or("sh", |(_, path)| {
        let path = path.to_str().unwrap_or_default();
        path.rsplit('/').next().unwrap_or(path)
    });
    match name {
        "sh" | "ash" | "bash" | "dash" | "ksh" | "ksh93" | "mksh" | "rbash" | "zsh" => {
            Shell::Bourne
        }
        _ => Shell::Other,
    }
}

/// Where systems keep their shells. A program of that name elsewhere may be anything.
const DIRS: [&str; 5] =
    ["/bin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/run/current-system/sw/bin"];

/// The command inside `/bin/bash -lc '…'`, so that a policy for `git status` matches. What is not
/// such a wrapper, entirely, stays as it is.
pub fn unwrapped(command: &str) -> String {
    let inner = || {
        let (shell, rest) = command.split_once(' ')?;
        let script = rest.strip_prefix("-lc ").or_else(|| rest.strip_prefix("-c "))?;
        if is_shell(shell) { single_word(script) } else { None }
    };
    inner().unwrap_or_else(|| command.to_owned())
}

/// The same of an argument list; empty if that is.
pub fn of_words(words: &[&str]) -> String {
    match words {
        [shell, "-c" | "-lc", script] if is_shell(shell) => (*script).to_owned(),
        _ => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    }
}

fn is_shell(program: &str) -> bool {
    let (dir, name) =
        program.rsplit_once('/').map_or((None, program), |(dir, name)| (Some(dir), name));
    matches!(name, "bash" | "zsh" | "sh") && dir.is_none_or(|dir| DIRS.contains(&dir))
}

/// Whether a shell takes `char` for nothing but itself, wherever it stands.
fn is_plain(char: char) -> bool {
    char.is_alphanumeric() || "-_./:=@%+,".contains(char)
}

fn quoted(word: &str) -> String {
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Undoes the quoting of one shell word; none if `text` is more, or less, than that.
fn single_word(text: &str) -> Option<String> {
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    char => word.push(char),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        char @ ('"' | '\\' | '$' | '`') => word.push(char),
                        // Both would vanish.
                        '\n' => return None,
                        char => word.extend(['\\', char]),
                    },
                    '$' | '`' => return None,
                    char => word.push(char),
                }
            },
            '\\' => word.push(chars.next().filter(|char| *char != '\n')?),
            char if is_plain(char) => word.push(char),
            _ => return None,
        }
    }
    (!word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_shells_that_are_known_count_as_such() {
        let with = |shells: &[&str]| {
            let each = shells.iter().map(|shell| ("SHELL".into(), (*shell).into()));
            of_environment(&each.collect::<Vec<_>>())
        };
        for known in ["/bin/bash", "/usr/bin/zsh", "sh", "/opt/bin/mksh", ""] {
            assert_eq!(with(&[known]), Shell::Bourne, "{known}");
        }
        for other in ["/bin/tcsh", "/bin/csh", "/usr/bin/fish", "nu", "/bin/bash-wrapper", "/bin/"]
        {
            assert_eq!(with(&[other]), Shell::Other, "{other}");
        }
        assert_eq!(with(&[]), Shell::Bourne);
        assert_eq!(with(&["/bin/bash", "/bin/tcsh"]), Shell::Other, "an agent's own comes last");
        assert_eq!(bourne(&[("SHELL".into(), "/bin/tcsh".into())]), Shell::Bourne);
    }

    #[track_caller]
    fn check(command: &str, expected: &str) {
        assert_eq!(unwrapped(command), expected);
    }

    #[test]
    fn a_policy_sees_the_command_and_not_its_wrapper() {
        check("/bin/bash -lc 'git status'", "git status");
        check("/bin/bash -lc ls", "ls");
        check("zsh -c \"echo 'a' \\\"b\\\"\"", "echo 'a' \"b\"");
        check(r#"/bin/sh -lc 'echo '"'"'x'"'"''"#, "echo 'x'");
        check(r"/usr/bin/bash -lc 'it'\''s'", "it's");
    }

    #[test]
    fn what_is_not_entirely_a_wrapper_stays_whole() {
        for whole in [
            "",
            "ls",
            "git status",
            "/bin/bash -lc 'git status' ; rm -rf .",
            "/bin/bash -lc 'git status';rm",
            "/bin/bash -lc 'git status' 'rm -rf .'",
            "/bin/bash -lc 'git status",
            "/bin/bash -lc \"echo $(rm x)\"",
            "/bin/bash -lc \"echo `rm x`\"",
            "/bin/bash -lc \"git \\\nstatus\"",
            "/bin/bash -lc git\\\nstatus",
            "/bin/bash -lc ls>x",
            "/bin/bash -lc ''",
            "/bin/bash -lc",
            "/bin/bash -x -lc 'git status'",
            "FOO=1 /bin/bash -lc 'git status'",
            "/usr/bin/python3 -c 'print(1)'",
            // What such a program does, only its author knows.
            "/tmp/bash -lc 'git status'",
            "./bash -lc 'git status'",
            "/bin/../tmp/bash -lc 'git status'",
        ] {
            check(whole, whole);
        }
    }

    #[track_caller]
    fn check_words(words: &[&str], expected: &str) {
        assert_eq!(of_words(words), expected);
    }

    #[test]
    fn an_argument_list_reads_as_a_command_line() {
        check_words(&[], "");
        check_words(&["git", "status"], "git status");
        check_words(&["/bin/bash", "-lc", "git status && ls"], "git status && ls");
        check_words(&["/tmp/evil.sh", "-c", "git status"], "/tmp/evil.sh -c 'git status'");
        check_words(&["git status", ""], "'git status' ''");
        check_words(&["echo", "a; rm -rf ~", "it's"], r"echo 'a; rm -rf ~' 'it'\''s'");
    }

    proptest! {
        #[test]
        fn quoting_is_undone_exactly(script in "[a-z '\"\\\\$`;\n]{1,20}") {
            let quoted = of_words(&["bash", "-x", &script]);
            let word = quoted.strip_prefix("bash -x ").unwrap();
            prop_assert_eq!(single_word(word), Some(script));
        }
    }
}
