//! What is known to be harmless of the little languages that stand on command lines: of sed and of
//! awk. Pure.

use super::{guard::unguard, lex::ShellWord, programs::Script};

/// The first script on a command line that may do more than print what it reads, behind the name
/// of its program.
pub(super) fn odd_script(language: Script, words: &[ShellWord]) -> Option<ShellWord> {
    let is_odd = |word: &ShellWord| {
        let text: String = word.text.chars().map(unguard).collect();
        word.known.is_some()
            || match language {
                Script::Sed => !is_plain_sed(&text),
                Script::Awk => !is_plain_awk(&text),
            }
    };
    scripts(language, words).into_iter().find(is_odd)
}

/// The words, or ends of words, that are scripts.
fn scripts(language: Script, words: &[ShellWord]) -> Vec<ShellWord> {
    let (long, values) = match language {
        Script::Sed => ("--expression", "-l --line-length"),
        Script::Awk => ("--source", "-F -v --field-separator --assign"),
    };
    let mut scripts = Vec::new();
    let mut operand = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.text.as_str();
        let end = |at: usize| ShellWord {
            text: text[at..].to_owned(),
            known: word.known.map(|known| known.saturating_sub(at)),
            ..ShellWord::default()
        };
        let letters = text.strip_prefix('-').filter(|it| !it.starts_with('-'));
        // What stands behind these letters is their value.
        let letter = letters.and_then(|it| it.find(['e', 'i', 'F', 'v', 'l', 'f']));
        if values.split(' ').any(|it| it == text) {
            words.next();
        } else if text.starts_with("--") && long.starts_with(text) && text.len() > 2 {
            scripts.extend(words.next().cloned());
        } else if let Some((name, _)) = text.split_once('=').filter(|_| text.starts_with("--")) {
            if long.starts_with(name) {
                scripts.push(end(name.len() + 1));
            }
        } else if let Some(at) = letter {
            if text[1 + at..].starts_with('e') {
                let is_attached = text.len() > at + 2;
                let script = if is_attached { Some(end(at + 2)) } else { words.next().cloned() };
                scripts.extend(script);
            }
        } else if !text.starts_with('-') && operand.is_none() {
            operand = Some(word.clone());
        }
    }
    if scripts.is_empty() {
        scripts.extend(operand);
    }
    scripts
}

/// Whether a script of sed has none of the commands that run, write or read files, nor the flags of
/// `s` that do.
fn is_plain_sed(script: &str) -> bool {
    let mut rest = script.trim_start_matches([' ', ';', '\n', '{', '}', '!']);
    while !rest.is_empty() {
        let next = read_sed_command(rest);
        let Some(next) = next.filter(|next| next.len() < rest.len()) else { return false };
        rest = next.trim_start_matches([' ', ';', '\n', '{', '}', '!']);
    }
    true
}

/// What follows a harmless command, or an address before one.
fn read_sed_command(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let rest = &text[first.len_utf8()..];
    let line = rest.find('\n').map_or("", |at| &rest[at..]);
    match first {
        '/' => Some(read_to(rest, '/')?.trim_start_matches(['I', 'M'])),
        's' | 'y' => {
            let mark = rest.chars().next().filter(|it| "/|#,:@%_+".contains(*it))?;
            let rest = read_to(read_to(&rest[1..], mark)?, mark)?;
            let rest =
                rest.trim_start_matches(|c: char| "gpiImM".contains(c) || c.is_ascii_digit());
            rest.chars().next().is_none_or(|c| " ;\n}".contains(c)).then_some(rest)
        }
        // Parts of addresses, and commands.
        '0'..='9'
        | '$'
        | ','
        | '+'
        | '~'
        | '='
        | 'd'
        | 'D'
        | 'g'
        | 'G'
        | 'h'
        | 'H'
        | 'n'
        | 'N'
        | 'p'
        | 'P'
        | 'q'
        | 'x' => Some(rest),
        // Labels and texts go on to the end of the line.
        ':' | 'a' | 'b' | 'c' | 'i' | 't' if !rest.contains('\\') => Some(line),
        _ => None,
    }
}

/// What follows the next `mark` that is not escaped. None where it may stand in brackets, which
/// versions of sed read differently.
fn read_to(text: &str, mark: char) -> Option<&str> {
    let mut chars = text.char_indices();
    let mut is_in_brackets = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()?),
            '\n' => return None,
            '[' => is_in_brackets = true,
            ']' => is_in_brackets = false,
            c if c == mark && is_in_brackets => return None,
            c if c == mark => return Some(&text[at + c.len_utf8()..]),
            _ => {}
        }
    }
    None
}

/// Whether a script of awk has nothing by which it reaches outside.
fn is_plain_awk(script: &str) -> bool {
    let outside = ["system", "getline", "|", ">", "<", "@", "close", "fflush", "extension"];
    !outside.iter().any(|it| script.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(language: Script, plain: bool, line: &[&str]) {
        let word = |text: &&str| ShellWord { text: (*text).to_owned(), ..ShellWord::default() };
        let words: Vec<ShellWord> = line.iter().map(word).collect();
        assert_eq!(odd_script(language, &words).is_none(), plain, "{line:?}");
    }

    #[test]
    fn scripts_that_only_print_are_plain() {
        for line in [
            &["-n", "1,5p", "write.txt"][..],
            &["s/a/b/g"],
            &["-E", "s|(a)/b|\\1|; /x/d"],
            &["-ne", "/x/,/y/p", "e"],
            &["-e", "s/[a-z]*/x/", "-e", "$d", "w.txt"],
            &["--expression=s/w/e/", "x"],
            &["1,3{p;d}"],
        ] {
            check(Script::Sed, true, line);
        }
        for line in [&["{print $1}", "system"][..], &["-F", "|", "NR == 1 {print $2}", "x"]] {
            check(Script::Awk, true, line);
        }
    }

    #[test]
    fn scripts_that_write_or_run_are_odd() {
        for line in [
            &["1e git push"][..],
            &["w x"],
            &["-n", "p;w x"],
            &["s/a/b/w x"],
            &["s/a/b/e"],
            &["s/a/b/ge"],
            &["sxaxbxe"],
            &["/[/]/e"],
            &["-e1e x"],
            &["-nee"],
            &["-e", "p", "-e", "e"],
            &["--expression=e"],
            &["--exp", "e"],
            &["a\\\nx\ne"],
            &["R x"],
            &["1~2W x"],
            &["s/a\\/b/e/e"],
        ] {
            check(Script::Sed, false, line);
        }
        for line in [
            &["BEGIN { system(\"x\") }"][..],
            &["-v", "x=1", "{print > \"y\"}"],
            &["{print | \"sh\"}"],
            &["-e", "{ @x() }"],
            &["--source=BEGIN { \"x\" | getline }"],
        ] {
            check(Script::Awk, false, line);
        }
    }
}
