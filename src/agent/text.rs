//! Foreign text: picked out of what engines send, and shortened for the people who read it. Pure.

use serde_json::Value;

use crate::visible;

/// Characters of an error or a notice that are passed on. Providers answer with whole HTML pages.
pub const MESSAGE_CHARS: usize = 1_000;

/// What cures a session that its model refuses as a whole, with every message: it has grown too long,
/// or holds an image or a call that the model does not take.
pub const NEW_SESSION: &str = "If this comes again, write `/new` and then the message: the session may be too long for the model, or \
     hold something that it refuses, and a new one begins without what was said before.";

/// How the services of models say that the session is too long for the model, in small letters. What
/// opencode 1.18.33 takes for that, and Qwen's own words.
const TOO_LONG: &[&str] = &[
    "is too long",
    "prompt too long",
    "too large for model",
    "request_too_large",
    "request entity too large",
    "context window",
    "context_window",
    "context length",
    "context_length",
    "context size",
    "context limit",
    "maximum context",
    "exceeds the maximum number of tokens",
    "more than max tokens allowed",
    "maximum allowed input length",
    "range of input length",
    "maximum prompt length",
    "reduce the length of the messages",
    "model token limit",
    "token limit exceeded",
    "too many tokens",
];

/// Whether a model's error says that the session is too long for it.
pub fn is_too_long(message: &str) -> bool {
    let lower = message.to_lowercase();
    TOO_LONG.iter().any(|words| lower.contains(words))
}

/// Bytes of an answer: more than any has. What is beyond is cut off.
pub const ANSWER_BYTES: usize = 1 << 20;

/// Lines of standard error that are passed on: the last ones say what was wrong.
const STDERR_LINES: usize = 4;

/// The string at `pointer`; empty if there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The first of the strings at `pointers` that is not empty; empty if all are.
pub fn first_text<'a>(value: &'a Value, pointers: &[&str]) -> &'a str {
    let texts = pointers.iter().map(|pointer| text(value, pointer));
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

/// The array at `pointer`; empty if there is none.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The sum of the counts at `pointers`; what is missing counts as 0.
pub fn total(value: &Value, pointers: &[&str]) -> u64 {
    let counts = pointers.iter().map(|pointer| value.pointer(pointer).and_then(Value::as_u64));
    counts.map(Option::unwrap_or_default).fold(0, u64::saturating_add)
}

/// `text` as one line of at most `limit` characters, without anything that moves a cursor.
pub fn one_line(text: &str, limit: usize) -> String {
    // What is cut off need not be looked at; commands can be very long.
    let head: String =
        text.chars().take(limit * 4).map(|c| if visible::is_hidden(c) { ' ' } else { c }).collect();
    let words = head.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= limit && text.chars().nth(limit * 4).is_none() {
        return words;
    }
    let mut cut: String = words.chars().take(limit - 1).collect();
    cut.push('…');
    cut
}

/// The same for a place between backticks, which it can't leave.
pub fn quotable(text: &str, limit: usize) -> String {
    one_line(text, limit).replace('`', "'")
}

/// An error or a notice in one line.
pub fn message(text: &str) -> String {
    one_line(text, MESSAGE_CHARS)
}

/// The last words of a process on its standard error, in one line without colours.
pub fn last_words(stderr: &str) -> String {
    let plain = without_colours(stderr);
    let lines: Vec<&str> = plain.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    message(&lines[lines.len().saturating_sub(STDERR_LINES)..].join(" / "))
}

/// Drops escape sequences (`ESC [ … letter`).
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\x1b' {
            plain.push(char);
        } else if chars.next() == Some('[') {
            chars.by_ref().find(|char| ('@'..='~').contains(char));
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_is_short_and_plain() {
        let check = |input: &str, expected: &str| assert_eq!(one_line(input, 10), expected);
        check("ls", "ls");
        check(" a\n\tb\r\u{1b}[31m\u{202e}c ", "a b [31m c");
        check("0123456789", "0123456789");
        check("0123456789a", "012345678…");
        check("ééééééééééé", "ééééééééé…");
        check(&format!("a{}b", " ".repeat(100)), "a…");
    }

    #[test]
    fn a_session_that_is_too_long_is_recognised_in_the_words_of_each_service() {
        for message in [
            "prompt is too long: 210000 tokens > 200000 maximum",
            "Input is too long for requested model.",
            "Your input exceeds the context window of this model.",
            "This model's maximum context length is 128000 tokens.",
            "The input token count (1161421) exceeds the maximum number of tokens allowed (1048576).",
            "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
            "Please reduce the length of the messages or completion.",
            "Invalid request: Your request exceeded model token limit: 131072",
            "InternalError.Algo.InvalidParameter: Range of input length should be [1, 98304]",
            "request (40000 tokens) exceeds the available context size (4096 tokens)",
            "model_context_window_exceeded",
            "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000",
        ] {
            assert!(is_too_long(message), "{message}");
        }
        for message in ["429 rate limit reached", "It took too long", "overloaded", ""] {
            assert!(!is_too_long(message), "{message}");
        }
    }

    #[test]
    fn the_last_words_are_short_and_without_colours() {
        let check = |stderr: &str, expected: &str| assert_eq!(last_words(stderr), expected);
        check("", "");
        check(" \n\x1b[", "");
        check("\x1b[31mERROR\x1b[0m a\r\n\nb\x07\n", "ERROR a / b");
        check("1\n2\n3\n4\n5\n6", "3 / 4 / 5 / 6");
        assert_eq!(last_words(&"é".repeat(5_000)).chars().count(), MESSAGE_CHARS);
    }

    #[test]
    fn what_is_missing_or_odd_reads_as_nothing() {
        let value = json!({"a": {"b": "x"}, "n": 3, "e": "", "l": [1]});
        assert_eq!([text(&value, "/a/b"), text(&value, "/n"), text(&value, "/l/b")], ["x", "", ""]);
        assert_eq!(first_text(&value, &["/n", "/e", "/a/b"]), "x");
        assert_eq!(first_text(&value, &["/n", "/e"]), "");
        assert_eq!((list(&value, "/l").len(), list(&value, "/a").len()), (1, 0));
        assert_eq!(total(&value, &["/n", "/n", "/a", "/l/0"]), 7);
        assert_eq!(total(&json!({"a": u64::MAX, "b": 1}), &["/a", "/b"]), u64::MAX);
    }
}
