//! The short code of an open question, which its answer repeats. Humans type it on a phone, so it has
//! no characters that look alike, and its shape makes it stand out from prose. Pure.

use std::{fmt, str::FromStr};

/// No vowels (a code is no word) and none that looks like a digit.
const LETTERS: [u8; 19] = *b"BCDFGHJKMNPQRSTVWXZ";

/// Neither 0 nor 1, which look like letters.
const DIGITS: [u8; 8] = *b"23456789";

/// Letter, digit, letter, digit.
const CODES: u32 = 19 * 8 * 19 * 8;

/// Has no divisor in common with [`CODES`], so that seeds that follow each other give codes that do
/// not look alike, and none twice before all had their turn.
const STEP: u64 = 14_321;

/// Names one open question of a thread, for example `K7Q2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code([u8; 4]);

impl Code {
    /// A code for each number. Count upwards from a random number: then a code comes again only
    /// after all 23,104 others.
    pub fn from_seed(seed: u32) -> Code {
        let mut rest = u64::from(seed % CODES) * STEP % u64::from(CODES);
        let mut pick = |from: &[u8]| {
            let len = from.len() as u64;
            let at = usize::try_from(rest % len).expect("it is less than the length of a slice");
            rest /= len;
            from[at]
        };
        Code([pick(&LETTERS), pick(&DIGITS), pick(&LETTERS), pick(&DIGITS)])
    }
}

/// The text is not a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCode;

impl FromStr for Code {
    type Err = NoCode;

    /// Reads a code in either case. Nothing around it is tolerated, and no character that merely
    /// looks right.
    fn from_str(text: &str) -> Result<Code, NoCode> {
        let bytes: [u8; 4] = text.as_bytes().try_into().map_err(|_| NoCode)?;
        let code = bytes.map(|byte| byte.to_ascii_uppercase());
        let fits = |at: usize, from: &[u8]| from.contains(&code[at]);
        let is_code =
            fits(0, &LETTERS) && fits(1, &DIGITS) && fits(2, &LETTERS) && fits(3, &DIGITS);
        is_code.then_some(Code(code)).ok_or(NoCode)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let read = text.parse::<Code>().ok().map(|code| code.to_string());
        assert_eq!(read.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn codes_are_read_in_either_case() {
        check("K7Q2", Some("K7Q2"));
        check("k7q2", Some("K7Q2"));
        check("k7Q2", Some("K7Q2"));
    }

    #[test]
    fn what_only_looks_like_a_code_is_none() {
        const TEXTS: &str = "|K7Q|K7Q22| K7Q2|K7Q2 |7K2Q|K0Q2|K1Q2|K7O2|I7Q2|L7Q2|A7Q2|U7Q2|KKQ2|K7Q\n|\
            \u{212a}7Q2|К7Q2|K７Q2|Ｋ7Q2|K7Q\u{200b}2|K-72|ÄQ2";
        for text in TEXTS.split('|') {
            check(text, None);
        }
    }

    #[test]
    fn no_code_comes_twice_before_all_had_their_turn() {
        let codes: HashSet<Code> = (7..7 + CODES).map(Code::from_seed).collect();
        assert_eq!(codes.len(), CODES as usize);
        for code in codes {
            assert_eq!(code.to_string().to_lowercase().parse(), Ok(code));
        }
        assert_ne!(Code::from_seed(u32::MAX), Code::from_seed(0));
    }

    #[test]
    fn neighbours_do_not_look_alike() {
        for seed in 0..1_000 {
            let (one, two) = (Code::from_seed(seed), Code::from_seed(seed + 1));
            let same = one.0.iter().zip(two.0).filter(|(a, b)| **a == *b).count();
            assert!(same <= 2, "{one} {two}");
        }
    }
}
