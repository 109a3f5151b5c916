//! Separators within a word of a command line are replaced by private characters, so that the
//! pattern `a b` matches the words `a` and `b` and not the one word `"a b"`, which is `a\ b`. Pure.

/// Characters that mean something else within a word than between words.
fn is_guarded(c: char) -> bool {
    matches!(c, ' ' | ';' | '&' | '|' | '\n')
}

/// What stands for a character within a word: a private one for each that separates words and
/// commands, any other for itself.
pub(super) fn guard(c: char) -> char {
    match u32::from(c) {
        code if is_guarded(c) => char::from_u32(0xF700 + code).expect("a private character"),
        _ => c,
    }
}

/// Undoes [`guard`].
pub(super) fn unguard(c: char) -> char {
    u32::from(c)
        .checked_sub(0xF700)
        .and_then(char::from_u32)
        .filter(|c| is_guarded(*c))
        .unwrap_or(c)
}

/// Whether `c` is one that [`guard`] gives, which no command has a use for.
pub(super) fn is_guard(c: char) -> bool {
    unguard(c) != c
}
