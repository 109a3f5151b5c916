//! Random command lines out of what shells know, most of them made to hide what they run.

use fastrand::Rng;

use super::frames::FRAMES;

/// What a line may run. Rules deny `git push` and `rm`, and allow `git status`.
const TARGETS: &[&[&str]] = &[
    &["git", "push", "a"],
    &["git", "push", "a"],
    &["rm", "x"],
    &["git", "status", "-s"],
    &["ls", "x"],
];

/// Before a command; `^` is a word of it, and so is everything else.
const WRAPPERS: &[&str] = &[
    "env",
    "env -i",
    "env A=1",
    "env --",
    "nice",
    "nice -n 5",
    "nohup",
    "timeout 5",
    "setsid",
    "command",
    "exec",
    "builtin",
    "noglob",
    "nocorrect",
    "time",
    "time -p",
    "!",
    "-",
    "not",
    "and",
    "begin;",
    "eval",
    "eval --",
    "xargs",
    "xargs -n1",
    "echo x | xargs",
    "find . -exec",
    "find . -maxdepth 0 -exec env",
    "repeat 2",
    "coproc",
    "coproc c",
    "A=1",
    "A=1 B+=2",
    "a[1]=2",
    "A=(1 2)",
    "PATH=$PATH",
    "then",
    "do",
    "else",
    "in",
    "esac",
    "{",
    "(",
    "fi;",
    "case",
    "for",
    "export A=1;",
    "set -e;",
    "set -k;",
    "alias x=y;",
    "[ -f x ] ||",
    "[[ -f x ]] ||",
    "test a = b ||",
    "unset A;",
    "read x;",
    "cd .;",
    "true &&",
    "false ||",
    ": ;",
    "f() ",
    "function f ",
    "f()\n",
    "ls ||",
    "ls #",
    "# x\n",
    "echo $(",
    "echo `",
];

/// Between words, or at either end.
const REDIRECTIONS: &[&str] = &[
    "2>&1",
    ">/dev/null",
    "> /dev/null",
    "</dev/null",
    "2>/dev/null",
    "0</dev/null",
    "3>x",
    "3>&1",
    "9<&0",
    "10>x",
    "<<<x",
    "<<< x",
    "<>x",
    "<> x",
    "&>x",
    "&> x",
    "&>>x",
    ">&x",
    ">& x",
    ">&2",
    ">&-",
    ">|x",
    ">!x",
    ">! x",
    ">>!x",
    "{f}>x",
    "{f}>&1",
    "<(ls)",
    ">(ls)",
    "< <(ls)",
    "=(ls)",
    "<1-2>",
    "<1-2>x",
    "<->",
    "2>x",
    "1>x",
    "12>x",
    ">x>y",
    "x>y",
    "<<E",
    ">\\\nx",
    "3>\\\n&1",
    ">$(ls)",
    ">`ls`",
    "> ~/x",
    "<$x",
    ">^x",
    "^",
    ">& 2",
    "2>& 1",
    "<&3-",
    "2>&1-",
];

const OPERATORS: &[&str] = &[
    ";", ";", "&&", "||", "|", "\n", "\n", "&", ";;", "|&", " ", "&!", "&|", ";&", "\r\n", " # ",
    "\\\n",
];

/// What is put anywhere.
const NOISE: &[&str] = &[
    "'", "\"", "`", "\\", "$", "(", ")", "{", "}", "[", "]", "<", ">", "|", "&", ";", "#", "!",
    "~", "=", "*", "?", "^", "%", "@", ":", ",", "\n", "\\\n", " ", "\t", "$(", "${", "$((", "))",
    "<(", "<<", "<<<", "''", "\"\"", "$'", "&>", ">&", "2>", "&&", "||", ";;", "\r", "\u{a0}", "x",
    "1", "in", "do", "fi", "\u{200b}", "é", "$x", "$$", "$#", "$@", "$?", "$-", "$!",
];

/// A line.
pub(super) fn line(rng: &mut Rng) -> String {
    let mut line =
        (0..rng.usize(1..3)).map(|_| framed(rng, 0)).collect::<Vec<_>>().join(pick(rng, OPERATORS));
    if rng.u8(0..4) == 0 {
        for _ in 0..rng.usize(1..3) {
            mutate(rng, &mut line);
        }
    }
    line
}

/// One that begins as if it was `git status`.
pub(super) fn status(rng: &mut Rng) -> String {
    let mut line = "git status".to_owned();
    for _ in 0..rng.usize(0..4) {
        line += pick(rng, &[" ", " ", "", ";", "&&", "|", "\n"]);
        line += &match rng.u8(0..4) {
            0 => pick(rng, NOISE).to_owned(),
            1 => pick(rng, REDIRECTIONS).to_owned(),
            2 => {
                let text = pick(rng, &["-s", "x", "rm", "git status", "push", "a b"]);
                word(rng, text)
            }
            _ => command(rng),
        };
    }
    if rng.bool() {
        mutate(rng, &mut line);
    }
    line
}

/// Words that every shell takes as they are, most of the time.
pub(super) fn plain(rng: &mut Rng) -> String {
    let words = [
        "git", "status", "push", "rm", "x", "ls", "-s", "a=b", "./x", "a,b", "eval", "env", "nice",
        "repeat", "2", "and", "or", "not", "builtin", "command", "exec", "time", "begin", "nohup",
        "sched", "if", "alias", "source", ".", "+1", ":", "=git", "@", "end", "func", "abbr", "-",
    ];
    let words = (0..rng.usize(1..6)).map(|_| pick(rng, &words)).collect::<Vec<_>>();
    let mut line = words.join(" ");
    if rng.u8(0..4) == 0 {
        mutate(rng, &mut line);
    }
    line
}

fn pick<'a>(rng: &mut Rng, all: &[&'a str]) -> &'a str {
    all[rng.usize(..all.len())]
}

/// A command within another, and so on.
fn framed(rng: &mut Rng, depth: usize) -> String {
    let frame = pick(rng, FRAMES);
    let mut line = String::new();
    for c in frame.chars() {
        match c {
            'C' if depth < 2 && rng.u8(0..4) == 0 => line += &framed(rng, depth + 1),
            'C' => line += &command(rng),
            'c' if frame.contains("-c c") || !frame.contains("c ") || rng.bool() => {
                // A letter of a word of the frame, such as `echo`.
                let before = line.chars().last().unwrap_or(' ');
                if before.is_ascii_alphabetic() || before == '-' || !is_alone(frame, line.len()) {
                    line.push('c');
                } else {
                    let inner = command(rng);
                    line += &word(rng, &inner);
                }
            }
            c => line.push(c),
        }
    }
    line
}

/// Whether the letter there is a word of its own.
fn is_alone(frame: &str, at: usize) -> bool {
    let next = frame.get(at + 1..).and_then(|rest| rest.chars().next());
    next.is_none_or(|c| !c.is_ascii_alphanumeric())
}

/// A simple command.
fn command(rng: &mut Rng) -> String {
    let target = TARGETS[rng.usize(..TARGETS.len())];
    let mut words: Vec<String> = target.iter().map(|it| word(rng, it)).collect();
    while rng.u8(0..3) == 0 {
        words.insert(rng.usize(..=words.len()), pick(rng, REDIRECTIONS).to_owned());
    }
    while rng.u8(0..3) == 0 {
        words.insert(0, pick(rng, WRAPPERS).to_owned());
    }
    words.join(if rng.u8(0..20) == 0 { "" } else { " " })
}

/// A word with quotes of some kind.
fn word(rng: &mut Rng, text: &str) -> String {
    let at = rng.usize(..=text.len());
    let (left, right) = if text.is_char_boundary(at) { text.split_at(at) } else { (text, "") };
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric());
    match rng.u8(0..24) {
        0 => format!("'{text}'"),
        1 => format!("\"{text}\""),
        2 => format!("'{left}'\"{right}\""),
        3 if is_plain => format!("{left}''{right}"),
        4 if is_plain => format!("{left}\\{right}"),
        5 if is_plain => format!("{left}\\\n{right}"),
        6 => format!("\"{left}\\\n{right}\""),
        7 => format!("$'{text}'"),
        8 => format!("$\"{text}\""),
        9 if is_plain => format!("{left}${{x}}{right}"),
        10 if is_plain => format!("{left}${{x:-{right}}}"),
        11 if is_plain => format!("{left}$(){right}"),
        12 if is_plain => format!("{left}$@{right}"),
        13 if is_plain => format!("{left}``{right}"),
        _ if is_plain => text.to_owned(),
        _ => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Puts something in, or takes something out.
fn mutate(rng: &mut Rng, line: &mut String) {
    let mut at = rng.usize(..=line.len());
    while !line.is_char_boundary(at) {
        at -= 1;
    }
    match rng.u8(0..3) {
        0 if at < line.len() => drop(line.remove(at)),
        _ => line.insert_str(at, pick(rng, NOISE)),
    }
}
