//! Text of an agent, made fit to be read by a human who decides by it: nothing in it is invisible,
//! nothing reorders or hides what stands beside it, and nothing ends the frame that it is put in. Pure.

use std::fmt::Write;

use crate::visible;

/// Longer runs of blanks are named, not shown: they would push what follows out of sight.
const BLANKS_MAX: usize = 24;

/// Longer runs of empty lines are named.
const EMPTY_LINES_MAX: usize = 4;

/// Longer runs of backticks are shown by their number, so that no fence becomes a wall.
const BACKTICKS_MAX: usize = 12;

/// The characters that are shown by number: those that can't be seen, and what passes for a
/// backtick.
pub(in crate::permission) fn is_hidden(c: char) -> bool {
    visible::is_hidden(c) || matches!(c, '\u{2cb}' | '\u{1fef}' | '\u{2035}' | '\u{ff40}')
}

/// Shows every hidden character by its number; line breaks and tabs stay.
fn shown(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        if is_hidden(c) && c != '\n' && c != '\t' {
            write!(clean, "\\u{{{:x}}}", u32::from(c)).expect("writing to a string works");
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Text of several lines: hidden characters shown, long runs of blanks and of empty lines named.
pub(in crate::permission) fn lines(text: &str) -> String {
    let text = shown(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let is_empty = |line: &str| line.trim().is_empty();
    let mut clean: Vec<String> = Vec::new();
    for run in lines.chunk_by(|one, next| is_empty(one) == is_empty(next)) {
        if !is_empty(run[0]) {
            clean.extend(run.iter().map(|line| without_gaps(line)));
            continue;
        }
        clean.extend(run.iter().take(EMPTY_LINES_MAX).map(|_| String::new()));
        if run.len() > EMPTY_LINES_MAX {
            clean.push(format!("[{} more empty lines]", run.len() - EMPTY_LINES_MAX));
        }
    }
    clean.join("\n")
}

fn without_gaps(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let is_blank = |c: char| c == ' ' || c == '\t';
    let runs = chars.chunk_by(|one, next| is_blank(*one) == is_blank(*next));
    let clean = runs.map(|run| match run {
        [first, ..] if is_blank(*first) && run.len() > BLANKS_MAX => {
            format!("[{} blanks]", run.len())
        }
        run => run.iter().collect(),
    });
    clean.collect()
}

/// Prose in one line: white space of any kind is one space, and a backtick, which marks nothing
/// here, an apostrophe.
pub(in crate::permission) fn prose(text: &str, chars: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        // What is cut off below need not be read.
        if line.len() > chars.saturating_mul(4) {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    cut(&shown(&line).replace('`', "'"), chars)
}

/// A name or path in one line: a line break in it is shown by its number.
pub(in crate::permission) fn name(text: &str, chars: usize) -> String {
    let line = without_gaps(&shown(text)).replace('\n', "\\u{a}").replace('\t', "\\u{9}");
    cut(&line, chars)
}

/// At most `chars` characters, the last of them `…` if it was cut.
pub(in crate::permission) fn cut(text: &str, chars: usize) -> String {
    if text.chars().nth(chars).is_none() {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    kept + "…"
}

/// The beginning and the end, with the size of what is left out between them.
pub(in crate::permission) fn clip(text: &str, chars: usize) -> String {
    let count = text.chars().count();
    if count <= chars {
        return text.to_owned();
    }
    let (head, tail) = (chars - chars / 3, chars / 3);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}[… {} characters …]{end}", count - head - tail)
}

/// One line as Markdown code. Backticks are shown by their number, since they would end it.
pub(in crate::permission) fn code(line: &str) -> String {
    if line.trim().is_empty() {
        return "`(nothing)`".to_owned();
    }
    format!("`{}`", line.replace('`', "\\u{60}"))
}

/// Lines as a Markdown block that nothing in them can end.
pub(in crate::permission) fn fence(text: &str, language: &str) -> String {
    let mut text = text.to_owned();
    if longest_run(&text) > BACKTICKS_MAX {
        text = text.replace('`', "\\u{60}");
    }
    let fence = "`".repeat((longest_run(&text) + 1).max(3));
    format!("{fence}{language}\n{text}\n{fence}")
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_shown() {
        for (input, expected) in [
            ("ls\u{1b}[2K", "ls\\u{1b}[2K"),
            ("a\rb", "a\\u{d}b"),
            ("a\r\nb", "a\nb"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("ad\u{200b}min", "ad\\u{200b}min"),
            ("a\u{a0}b", "a\\u{a0}b"),
            ("a\u{2028}b", "a\\u{2028}b"),
            ("\u{e0041}x", "\\u{e0041}x"),
            ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
            ("a\u{2800}b\u{3164}\u{115f}", "a\\u{2800}b\\u{3164}\\u{115f}"),
            ("\u{fff9}\u{180e}\u{e0100}\u{378}", "\\u{fff9}\\u{180e}\\u{e0100}\\u{378}"),
            ("ˋˋˋ", "\\u{2cb}\\u{2cb}\\u{2cb}"),
            ("\0\u{7f}\u{9b}", "\\u{0}\\u{7f}\\u{9b}"),
            ("grüße\t日本", "grüße\t日本"),
        ] {
            assert_eq!(lines(input), expected, "{input:?}");
        }
    }

    #[test]
    fn gaps_are_named() {
        let far = format!("ls{}; rm -rf ~", " ".repeat(300));
        assert_eq!(lines(&far), "ls[300 blanks]; rm -rf ~");
        let low = format!("ls{}rm", "\n \n".repeat(50));
        assert_eq!(lines(&low), "ls\n\n\n\n\n[95 more empty lines]\nrm");
        let tail = "\n".repeat(100);
        assert!(lines(&tail).contains("[97 more empty lines]"), "{:?}", lines(&tail));
        assert_eq!(lines("    indented"), "    indented");
    }

    #[test]
    fn a_fence_is_longer_than_what_is_in_it() {
        assert_eq!(fence("a", ""), "```\na\n```");
        assert_eq!(fence("```\nx\n```", "diff"), "````diff\n```\nx\n```\n````");
        let wall = fence(&"`".repeat(500), "");
        assert!(wall.starts_with("```\n\\u{60}") && wall.ends_with("\n```"), "{wall}");
    }

    #[test]
    fn names_and_prose_are_one_line() {
        assert_eq!(name("a\nb\tc", 20), "a\\u{a}b\\u{9}c");
        assert_eq!(prose("a\n\n b\u{2029}c", 20), "a b c");
        assert_eq!(prose(&"word ".repeat(100_000), 10), "word word…");
        assert_eq!(prose("run `ls`", 20), "run 'ls'");
        assert_eq!(code("a`b"), "`a\\u{60}b`");
        assert_eq!(code(" "), "`(nothing)`");
    }

    #[test]
    fn a_clipped_text_keeps_its_end() {
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdefghi", 6), "abcd[… 3 characters …]hi");
        assert_eq!(clip("äöüäöüä", 3), "äö[… 4 characters …]ä");
    }
}
