//! Which characters a person does not see, or which change how others are seen. Everything that shows
//! foreign text to people goes by this one list. Pure.

/// Whether a character has no picture, no width or a width alone, or changes the direction of others:
/// general categories Cc, Cf, Co, Cn, Zl, Zp and Zs but for the space, all of
/// `Default_Ignorable_Code_Point`, and two symbols whose picture is blank. Line breaks and tabs are
/// among them.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    is_unprintable(c) || is_ignorable(c) || matches!(c, '\u{2800}' | '\u{1d159}')
}

/// Whether a character does something to what stands beside it on a terminal, or is not seen there:
/// controls, what turns the direction of text, what has no width and is no part of a word. Of what
/// [`is_hidden`] knows, blanks and what words of some languages and emoji are made with stay.
pub fn drives_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The general categories, by the Unicode data of the standard library: within a text it escapes
/// exactly these for `Debug`, and a few of ASCII.
fn is_unprintable(c: char) -> bool {
    let mut buffer = [b'x'; 5];
    let len = c.encode_utf8(&mut buffer[1..]).len();
    let text = str::from_utf8(&buffer[..=len]).expect("a letter and a character are UTF-8");
    text.escape_debug().nth(2).is_some()
}

/// `Default_Ignorable_Code_Point` (Unicode 16, `DerivedCoreProperties.txt`) as far as it is of other
/// categories than those above: the joiner, fillers of Hangul, vowels that are not written, variation
/// selectors.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180d}'
        | '\u{180f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_hidden() {
        // One of each category and each range; tags and unassigned ones among them.
        let hidden = "\0\t\n\u{7f}\u{85}\u{a0}\u{ad}\u{34f}\u{378}\u{600}\u{61c}\u{6dd}\u{70f}\u{115f}\u{1160}\u{1680}\
            \u{17b4}\u{17b5}\u{180b}\u{180e}\u{180f}\u{2003}\u{200b}\u{200d}\u{200f}\u{2028}\u{2029}\u{202e}\u{202f}\u{2060}\
            \u{2065}\u{2066}\u{206f}\u{2800}\u{3000}\u{3164}\u{e000}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{fff9}\
            \u{fffb}\u{110bd}\u{13430}\u{1bca0}\u{1d159}\u{1d173}\u{e0001}\u{e0041}\u{e007f}\u{e0100}\u{e01ef}\u{f0000}\
            \u{10ffff}";
        for c in hidden.chars() {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in " a~äß漢한ا́\u{301}\u{308}→✓😀\u{fffd}`'\"\\".chars() {
            assert!(!is_hidden(c), "{c:?}");
        }
    }

    #[test]
    fn a_terminal_is_driven_by_less() {
        for hidden in "\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{e0041}\u{9b}\u{7f}".chars() {
            assert!(drives_terminal(hidden), "{hidden:?}");
        }
        // Words of some languages, and emoji, are made with these.
        for seen in "aé\u{a0}\u{3000}\u{200d}\u{200c}\u{fe0f}\u{301}👩".chars() {
            assert!(!drives_terminal(seen), "{seen:?}");
        }
        for c in (char::MIN..=char::MAX).filter(|c| drives_terminal(*c)) {
            assert!(is_hidden(c), "{c:?}");
        }
    }
}
