//! Parses what a human's text says about a question. What allows something is read strictly: a few
//! whole words in ASCII with nothing around them; prose is never an approval. Pure.

use crate::permission::code::Code;

/// Words that approve, alone or before a code.
const APPROVE: [&str; 3] = ["approve", "yes", "allow"];

/// Words that deny, alone, before a code or before `because`.
const DENY: [&str; 2] = ["deny", "no"];

const ALWAYS: &str = "always";

/// What a page adds for a person who has opened the whole of a question. Nobody writes it by accident.
const WHOLE: &str = "whole";

/// What may follow a code or a denying word when people write sentences.
const PUNCTUATION: [char; 5] = [',', ':', ';', '.', '!'];

/// What a text says. What it answers, if anything, is decided in `approvals`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    Approve(Option<Code>),
    Always(Option<Code>),
    /// The same from somebody who was shown all of a question that was cut: `approve CODE whole`.
    ApproveWhole(Code),
    AlwaysWhole(Code),
    Deny {
        code: Option<Code>,
        reason: Option<&'a str>,
    },
    /// A code and other words, perhaps none: an answer to a question with choices.
    Choose {
        code: Code,
        words: &'a str,
    },
    /// An answering word and a word that is not a code but was probably meant as one.
    Mistyped(&'a str),
    Other(&'a str),
}

impl Parsed<'_> {
    /// The question that it names.
    pub fn code(&self) -> Option<Code> {
        match self {
            Parsed::Approve(code) | Parsed::Always(code) | Parsed::Deny { code, .. } => *code,
            Parsed::Choose { code, .. }
            | Parsed::ApproveWhole(code)
            | Parsed::AlwaysWhole(code) => Some(*code),
            Parsed::Mistyped(_) | Parsed::Other(_) => None,
        }
    }

    /// Whether it begins with one of the answering words.
    pub fn is_answer(&self) -> bool {
        !matches!(self, Parsed::Other(_) | Parsed::Choose { .. })
    }
}

/// Reads a text. Letters count in either case; around the whole, ASCII white space and at the end
/// one `.` or `!` are tolerated.
pub fn read(text: &str) -> Parsed<'_> {
    let text = text.trim_ascii();
    approval(text)
        .or_else(|| denial(text))
        .or_else(|| {
            let (first, words) = word(text);
            let code = plain(first).parse().ok()?;
            Some(Parsed::Choose { code, words })
        })
        .unwrap_or(Parsed::Other(text))
}

/// Whether a text has only numbers, as for numbered options, or nothing.
pub fn is_numbers(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c.is_ascii_whitespace() || ",;.#".contains(c))
}

fn is_any(word: &str, words: &[&str]) -> bool {
    words.iter().any(|it| word.eq_ignore_ascii_case(it))
}

/// Makes of a code what an approving word says about it.
type Says<T> = fn(T) -> Parsed<'static>;

fn approval(text: &str) -> Option<Parsed<'_>> {
    let mut words =
        text.strip_suffix(['.', '!']).unwrap_or(text).split([' ', '\t']).filter(|w| !w.is_empty());
    let (says, says_whole): (Says<Option<Code>>, Says<Code>) = match words.next()? {
        verb if is_any(verb, &APPROVE) => (Parsed::Approve, Parsed::ApproveWhole),
        verb if is_any(verb, &[ALWAYS]) => (Parsed::Always, Parsed::AlwaysWhole),
        _ => return None,
    };
    match (words.next(), words.next(), words.next()) {
        (None, ..) => Some(says(None)),
        (Some(name), None, _) => match name.parse() {
            Ok(code) => Some(says(Some(code))),
            Err(_) => is_near_code(name).then_some(Parsed::Mistyped(name)),
        },
        (Some(name), Some(word), None) if is_any(word, &[WHOLE]) => {
            name.parse().ok().map(says_whole)
        }
        _ => None,
    }
}

fn denial(text: &str) -> Option<Parsed<'_>> {
    let (verb, rest) = word(text);
    if !is_any(plain(verb), &DENY) {
        return None;
    }
    let (name, after) = word(rest);
    let code = plain(name).parse().ok();
    let words = if code.is_some() { after } else { rest };
    let (first, why) = word(words);
    let is_because = is_any(plain(first), &["because"]);
    if code.is_some() || is_because || rest.is_empty() {
        let reason = Some(if is_because { why } else { words }).filter(|text| !text.is_empty());
        return Some(Parsed::Deny { code, reason });
    }
    (after.is_empty() && is_near_code(name)).then_some(Parsed::Mistyped(name))
}

/// A word without what may follow it in a sentence.
fn plain(word: &str) -> &str {
    word.trim_end_matches(PUNCTUATION)
}

/// One short word with a digit in it.
fn is_near_code(word: &str) -> bool {
    word.len() <= 16 && word.chars().any(char::is_numeric)
}

/// The first word, and the rest without the white space between them.
fn word(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
    (&text[..at], text[at..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODE: &str = "K7Q2";

    fn code() -> Code {
        CODE.parse().unwrap()
    }

    #[track_caller]
    fn check(texts: &[&str], expected: Parsed<'_>) {
        for text in texts {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn approvals_are_read() {
        let bare =
            ["approve", "Approve", "YES", "allow", " yes\n", "yes.", "Approve!", "\tallow  "];
        check(&bare, Parsed::Approve(None));
        let coded =
            ["approve K7Q2", "approve k7q2", "Yes  k7Q2!", "ALLOW\tK7Q2.", " allow K7Q2 \r\n"];
        check(&coded, Parsed::Approve(Some(code())));
        check(&["always", "Always.", "ALWAYS "], Parsed::Always(None));
        check(&["always K7Q2", "Always k7q2!"], Parsed::Always(Some(code())));
        check(&["approve K7Q2 whole", "YES k7q2\tWhole."], Parsed::ApproveWhole(code()));
        check(&["always K7Q2 whole"], Parsed::AlwaysWhole(code()));
        for text in ["approve whole", "approve K7Q2 whole it", "approve whole K7Q2"] {
            assert_eq!(read(text), Parsed::Other(text));
        }
    }

    #[test]
    fn denials_are_read() {
        let deny = |code, reason| Parsed::Deny { code, reason };
        check(&["deny", "no", "No.", "NO!", " deny "], deny(None, None));
        check(
            &["deny K7Q2", "no k7q2", "deny K7Q2.", "deny K7Q2 because"],
            deny(Some(code()), None),
        );
        let texts =
            ["deny K7Q2 because use tabs", "no K7Q2: use tabs", "deny k7q2\nbecause use tabs"];
        check(&texts, deny(Some(code()), Some("use tabs")));
        check(&["deny because use tabs", "no, because use tabs"], deny(None, Some("use tabs")));
        let both = "deny K7Q2 because approve B2C3";
        check(&[both], deny(Some(code()), Some("approve B2C3")));
    }

    #[test]
    fn choices_are_read() {
        let choose = |words| Parsed::Choose { code: code(), words };
        check(&["K7Q2 2", "k7q2: 2", "K7Q2\n2", " K7Q2   2 "], choose("2"));
        check(&["K7Q2", "k7q2!"], choose(""));
        check(&["K7Q2 approve"], choose("approve"));
        check(&["K7Q2\n1\n2, 3"], choose("1\n2, 3"));
    }

    #[test]
    fn a_code_that_is_none_is_told_apart_from_prose() {
        check(&["approve K702", "always K702", "deny K702"], Parsed::Mistyped("K702"));
        check(&["approve К7Q2"], Parsed::Mistyped("К7Q2"));
        check(&["approve K7Q２"], Parsed::Mistyped("K7Q２"));
        check(&["yes K7Q2B3"], Parsed::Mistyped("K7Q2B3"));
    }

    /// Nothing of this may approve; most of it is a reason to deny.
    #[test]
    fn everything_else_is_text() {
        const TEXTS: &str = "|ok|approved|approve it|yes please|please approve|do not approve|yes and no|\
            approve, but only once|approve K7Q2 B2C3|approve K7Q2 please|approve\nK7Q2|\
            approve\u{a0}K7Q2|approve\u{200b}|\u{feff}approve|approve\u{a0}|\u{2003}yes|\
            \"approve\"|`approve`|approve?|approve..|approve!!|appr ove|a p p r o v e|\
            аpprove|аррrоvе|ａｐｐｒｏｖｅ|𝐚𝐩𝐩𝐫𝐨𝐯𝐞|apprσve|approνe|yeſ|ʏes|YEЅ|yes\0|\u{1b}[31myes|\
            yes\u{301}|sey|evorppa\u{202e}|al\u{ad}ways|al ways|alwaуs|> approve|- approve|\
            approve-K7Q2|approveK7Q2|/approve|no, use tabs|not now|none|\
            deny everything that comes|say approve|approve\tK7 Q2|yes, K7Q2";
        for text in TEXTS.split('|') {
            assert_eq!(read(text), Parsed::Other(text), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_numbers() {
        for (text, expected) in [
            ("2", true),
            ("1, 2", true),
            ("", true),
            ("2.", true),
            ("#3", true),
            ("two", false),
            ("²", false),
        ] {
            assert_eq!(is_numbers(text), expected, "{text}");
        }
    }

    #[test]
    fn a_megabyte_is_read_at_once() {
        let text = format!("deny K7Q2 because {}", "x ".repeat(1 << 19));
        assert!(matches!(read(&text), Parsed::Deny { code: Some(_), reason: Some(_) }));
        assert!(matches!(read(&"approve ".repeat(1 << 17)), Parsed::Other(_)));
    }

    /// The approving texts, said a second time: by what is left when the tolerated is taken off.
    fn approves(text: &str) -> bool {
        let text: String = text.to_ascii_lowercase();
        let text = text.trim_matches([' ', '\t', '\n', '\r', '\u{c}']);
        let text = text.strip_suffix('.').or(text.strip_suffix('!')).unwrap_or(text);
        let text = text.replace('\t', " ");
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let is_verb = |word: &str| ["approve", "yes", "allow", "always"].contains(&word);
        let words = match &words[..] {
            [verb, code, "whole"] => &[*verb, *code],
            words => words,
        };
        match *words {
            [verb] => is_verb(verb),
            [verb, code] => {
                let bytes = code.as_bytes();
                is_verb(verb)
                    && bytes.len() == 4
                    && "bcdfghjkmnpqrstvwxz".contains(bytes[0] as char)
                    && ('2'..='9').contains(&(bytes[1] as char))
                    && "bcdfghjkmnpqrstvwxz".contains(bytes[2] as char)
                    && ('2'..='9').contains(&(bytes[3] as char))
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Words, codes, separators and look-alikes in any order.
        #[test]
        fn only_the_approving_forms_approve(parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                "approve", "yes", "ALLOW", "always", "deny", "no", "because", "whole", "K7Q2", "k7q2", "К7Q2", "K7Q0",
                " ", " ", "\t", "\n", "\u{a0}", "\u{200b}", "\u{2028}", ".", "!", ",", "аpprove", "yеs", "\u{202e}",
            ]).prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
            "[ -~]{0,6}",
        ], 0..6)) {
            let text = parts.concat();
            let approved = matches!(
                read(&text),
                Parsed::Approve(_) | Parsed::Always(_) | Parsed::ApproveWhole(_) | Parsed::AlwaysWhole(_)
            );
            prop_assert_eq!(approved, approves(&text), "{:?}", text);
        }

        /// Nothing but spaces around a word keeps it what it is.
        #[test]
        fn a_word_with_anything_in_it_is_another(word in "(approve|yes|allow|always)", at in 0..9_usize, c in any::<char>()) {
            let at = at.min(word.len());
            let text = format!("{}{c}{}", &word[..at], &word[at..]);
            let is_approval = matches!(read(&text), Parsed::Approve(_) | Parsed::Always(_));
            let at_edge = at == 0 || at == word.len();
            let is_tolerated = at_edge && c.is_ascii_whitespace() || at == word.len() && (c == '.' || c == '!');
            prop_assert_eq!(is_approval, is_tolerated, "{:?}", text);
        }
    }
}
