//! The letters of protocols. Rust's own `trim` takes away 25 kinds of blanks and its `parse` takes a
//! sign, and who reads the same bytes by the letter sees something else in them.

use std::str::FromStr;

/// Without blanks around it: spaces and tabs alone (RFC 9110 section 5.6.3, "OWS").
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// A number in digits: no sign, no blank. None: it is none, or does not fit.
pub fn number<T: FromStr>(text: &str) -> Option<T> {
    is_digits(text).then(|| text.parse().ok())?
}

/// Whether it is digits, and at least one.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_spaces_and_tabs() {
        assert_eq!(trim(" \t a b\t "), "a b");
        for kept in ["\u{a0}a", "a\u{2003}", "\u{85}a", "a\r", "\na", "\u{b}a\u{c}", "\u{feff}a"] {
            assert_eq!(trim(kept), kept, "{kept:?}");
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(
            (number("0"), number("007"), number("65535")),
            (Some(0), Some(7), Some(65535_u16))
        );
        for bad in ["", "+5", "-5", " 5", "5 ", "5.", "٥", "５", "65536", "1_0"] {
            assert_eq!(number::<u16>(bad), None, "{bad:?}");
        }
    }
}
