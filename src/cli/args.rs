//! What people type, as the parser wants it, and what they may have meant where it does not.

use argh::FromArgs;

use super::Args;
use crate::config::near::nearest;

/// Rewrites `help COMMAND`, `COMMAND -h`, `version` and `--option=value`.
pub(super) fn usual(args: &[&str]) -> Vec<String> {
    let args = match args {
        ["version", rest @ ..] => [&["--version"], rest].concat(),
        ["help", rest @ ..] => [rest, &["--help"]].concat(),
        _ => args.to_vec(),
    };
    let path = path(&args);
    let options = known(path).options;
    let mut usual: Vec<String> = path.iter().map(|word| (*word).to_owned()).collect();
    for (at, arg) in args[path.len()..].iter().enumerate() {
        match arg.split_once('=') {
            // Behind an option it may be its value.
            _ if *arg == "-h" && at == 0 => usual.push("--help".to_owned()),
            Some((option, value)) if options.iter().any(|known| known == option) => {
                usual.extend([option.to_owned(), value.to_owned()]);
            }
            _ => usual.push((*arg).to_owned()),
        }
    }
    usual
}

/// What was meant by the first argument that was not understood, and where to read on.
pub(super) fn advice(args: &[&str], said: &str) -> String {
    let path = path(args);
    let unknown = said.lines().find_map(|line| line.trim().strip_prefix("Unrecognized argument: "));
    let Known { options, commands } = known(path);
    let words = options.iter().chain(&commands).map(String::as_str);
    let meant = unknown.and_then(|word| nearest(word.split('=').next().unwrap_or(word), words));
    let meant = meant.map(|meant| format!("Did you mean `{meant}`? ")).unwrap_or_default();
    let command = [&["obto-bridge"], path, &["--help"]].concat().join(" ");
    format!("{meant}`{command}` tells more.")
}

/// The commands at the beginning.
fn path<'a, 'b>(args: &'b [&'a str]) -> &'b [&'a str] {
    let mut length = 0;
    while let Some(next) = args.get(length)
        && known(&args[..length]).commands.iter().any(|command| command == next)
    {
        length += 1;
    }
    &args[..length]
}

/// What may come next.
struct Known {
    options: Vec<String>,
    commands: Vec<String>,
}

/// Reads the help of a command: the parser has no other list.
fn known(path: &[&str]) -> Known {
    let help = Args::from_args(&["obto-bridge"], &[path, &["--help"]].concat());
    let help = help.err().map(|early| early.output).unwrap_or_default();
    let section = |name: &str| {
        let lines = help.lines().skip_while(|line| *line != name).skip(1);
        lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let words = |lines: Vec<String>| -> Vec<String> {
        let begins = |line: &String| {
            line.strip_prefix("  ").filter(|it| !it.starts_with(' ')).map(str::to_owned)
        };
        lines.iter().filter_map(begins).collect()
    };
    let options = words(section("Options:")).into_iter().flat_map(|line| {
        let names = line.split("  ").next().unwrap_or_default().to_owned();
        names
            .split([',', ' '])
            .filter(|word| word.starts_with("--"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let commands = words(section("Commands:")).into_iter();
    let commands = commands.filter_map(|line| Some(line.split(' ').next()?.to_owned()));
    Known { options: options.collect(), commands: commands.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(typed: &str, expected: &str) {
        let typed: Vec<&str> = typed.split(' ').collect();
        assert_eq!(usual(&typed).join(" "), expected);
    }

    #[test]
    fn what_people_type() {
        check("start --log=debug", "start --log debug");
        check("run --prompt=a=b --json", "run --prompt a=b --json");
        check("run --prompt --x=y", "run --prompt --x=y");
        check("status -h", "status --help");
        check("-h", "--help");
        check("run --prompt -h", "run --prompt -h");
        check("help start", "start --help");
        check("help", "--help");
        check("version", "--version");
        check("nonsense --log=debug", "nonsense --log=debug");
        check("policy test claude run a=b", "policy test claude run a=b");
    }

    #[test]
    fn what_was_meant() {
        let meant =
            |args: &[&str], word: &str| advice(args, &format!("Unrecognized argument: {word}\n"));
        assert!(meant(&["strat"], "strat").contains("`start`"));
        assert!(meant(&["run", "--agnt", "x"], "--agnt").contains("`--agent`"));
        assert!(meant(&["run", "--agnt", "x"], "--agnt").contains("`obto-bridge run --help`"));
        assert_eq!(meant(&["launch"], "launch"), "`obto-bridge --help` tells more.");
    }
}
