//! What a text chooses of an engine's own questions: by number, by label, or in words of one's own
//! where the engine takes them. Pure.

use super::texts;
use crate::{
    agent::{Choice, ChoiceOption},
    permission::{answer, approval_prompt::clean},
};

/// Characters of an answer in one's own words, and of a reason.
const OWN_WORDS: usize = 4_000;

/// Why a text chooses nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoChoice {
    /// Meant as a choice, but not a possible one; why.
    Wrong(String),
    Other,
}

/// The beginning of a text, as much as an agent is given of it.
pub(super) fn own_words(text: &str) -> String {
    clean::cut(text.trim(), OWN_WORDS)
}

/// Reads one answer for each question, separated by line breaks or `;`. What is chosen is that of
/// each question, in their order.
pub(super) fn read(choices: &[Choice], text: &str) -> Result<Vec<Vec<String>>, NoChoice> {
    let text = text.trim();
    if text.is_empty() {
        return Err(wrong(texts::SAY_WHICH));
    }
    let separator = if text.contains('\n') { '\n' } else { ';' };
    let parts: Vec<&str> = if choices.len() == 1 {
        vec![text]
    } else {
        text.split(separator).map(str::trim).filter(|part| !part.is_empty()).collect()
    };
    if parts.len() != choices.len() {
        let fits = |part: &&str| choices.iter().any(|choice| find(choice, part).is_ok());
        let is_meant = answer::is_numbers(text) || parts.iter().any(fits);
        let why = texts::wrong_count(choices.len(), parts.len());
        return Err(if is_meant { NoChoice::Wrong(why) } else { NoChoice::Other });
    }
    let chosen = choices.iter().zip(&parts).map(|(choice, part)| one(choice, part));
    let chosen: Vec<_> = chosen.collect();
    let is_partly_good = chosen.iter().any(Result::is_ok);
    chosen.into_iter().collect::<Result<_, _>>().map_err(|no: NoChoice| match no {
        // Some of it was understood, so the rest is a slip.
        NoChoice::Other if is_partly_good => wrong(texts::NO_SUCH_OPTION),
        no => no,
    })
}

fn one(choice: &Choice, text: &str) -> Result<Vec<String>, NoChoice> {
    if choice.options.is_empty() {
        return Ok(vec![own_words(text)]);
    }
    let list: Result<Vec<String>, Miss> = text.split(',').map(|part| find(choice, part)).collect();
    match (find(choice, text), list) {
        (Ok(label), _) => Ok(vec![label]),
        (_, Ok(_)) if !choice.is_multiple => Err(wrong(texts::ONE_ONLY)),
        (_, Ok(labels)) => {
            let mut once = Vec::new();
            for label in labels {
                if !once.contains(&label) {
                    once.push(label);
                }
            }
            Ok(once)
        }
        (Err(Miss::Ambiguous), _) => Err(wrong(texts::AMBIGUOUS)),
        _ if answer::is_numbers(text) => {
            Err(NoChoice::Wrong(texts::wrong_number(choice.options.len())))
        }
        _ if choice.is_open => Ok(vec![own_words(text)]),
        _ => Err(NoChoice::Other),
    }
}

fn wrong(why: &str) -> NoChoice {
    NoChoice::Wrong(why.to_owned())
}

/// Whether a text is one of the options of the only question.
pub(super) fn is_option(choices: &[Choice], text: &str) -> bool {
    matches!(choices, [choice] if find(choice, text).is_ok())
}

#[derive(Debug, PartialEq, Eq)]
enum Miss {
    Nothing,
    Ambiguous,
}

/// The one option that a text names, by its number or by its label as it is or as it is shown.
fn find(choice: &Choice, text: &str) -> Result<String, Miss> {
    let text = text.trim();
    let number = text.trim_start_matches('#').trim_end_matches('.');
    let number = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok());
    let number: Option<usize> = number.flatten();
    let is_meant =
        |(at, option): &(usize, &ChoiceOption)| number == Some(at + 1) || is_label(option, text);
    let mut found = choice.options.iter().enumerate().filter(is_meant).map(|(_, it)| &it.label);
    let first = found.next().ok_or(Miss::Nothing)?;
    if found.any(|other| other != first) { Err(Miss::Ambiguous) } else { Ok(first.clone()) }
}

fn is_label(option: &ChoiceOption, text: &str) -> bool {
    // Longer than any label that is shown whole.
    if text.is_empty() || text.len() > option.label.len().max(2_000) * 2 {
        return false;
    }
    let text = text.to_lowercase();
    option.label.trim().to_lowercase() == text
        || clean::prose(&option.label, usize::MAX).to_lowercase() == text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(labels: &[&str], is_multiple: bool, is_open: bool) -> Choice {
        let option =
            |label: &&str| ChoiceOption { label: (*label).to_owned(), description: String::new() };
        let options = labels.iter().map(option).collect();
        Choice { question: "Which?".to_owned(), options, is_multiple, is_open }
    }

    #[track_caller]
    fn check(choices: &[Choice], text: &str, expected: &[&[&str]]) {
        let expected = expected.iter().map(|it| it.iter().map(ToString::to_string).collect());
        assert_eq!(read(choices, text), Ok(expected.collect()), "{text:?}");
    }

    #[track_caller]
    fn check_wrong(choices: &[Choice], text: &str) {
        assert!(matches!(read(choices, text), Err(NoChoice::Wrong(_))), "{text:?}");
    }

    #[test]
    fn one_of_several() {
        let one = [choice(&["Postgres", "SQLite, in memory", "  My `db` "], false, false)];
        check(&one, "1", &[&["Postgres"]]);
        check(&one, " 2. ", &[&["SQLite, in memory"]]);
        check(&one, "#2", &[&["SQLite, in memory"]]);
        check(&one, "postgres", &[&["Postgres"]]);
        check(&one, "sqlite, in memory", &[&["SQLite, in memory"]]);
        check(&one, "my `db`", &[&["  My `db` "]]);
        check(&one, "My 'db'", &[&["  My `db` "]]);
        for wrong in ["0", "4", "99999999999999999999999", "1, 2", "1,3", "", "1 2", "#"] {
            check_wrong(&one, wrong);
        }
        for text in ["whatever you like", "one", "Postgres please", "-1", "Pоstgres", "1 or 2"] {
            assert_eq!(read(&one, text), Err(NoChoice::Other), "{text}");
        }
    }

    #[test]
    fn several_of_several() {
        let many = [choice(&["a", "b", "c"], true, false)];
        check(&many, "1, 3", &[&["a", "c"]]);
        check(&many, "c,A,1", &[&["c", "a"]]);
        check(&many, "2", &[&["b"]]);
        check_wrong(&many, "1, 4");
        assert_eq!(read(&many, "a and b"), Err(NoChoice::Other));
    }

    #[test]
    fn own_words_where_they_are_taken() {
        let open = [choice(&["a", "b"], false, true)];
        check(&open, "b", &[&["b"]]);
        check(&open, "neither, use d", &[&["neither, use d"]]);
        check_wrong(&open, "7");
        let free = [choice(&[], false, false)];
        check(&free, "7", &[&["7"]]);
        let long = "x".repeat(1 << 20);
        let all = read(&free, &long).unwrap();
        assert_eq!(all[0][0].chars().count(), OWN_WORDS);
    }

    #[test]
    fn a_label_that_is_a_number_must_be_clear() {
        let counts = [choice(&["2", "4"], false, false)];
        check_wrong(&counts, "2");
        check(&counts, "1", &[&["2"]]);
        check(&counts, "4", &[&["4"]]);
        let same = [choice(&["x", "x"], false, false)];
        check(&same, "x", &[&["x"]]);
    }

    #[test]
    fn an_answer_for_each_question() {
        let two = [choice(&["a", "b"], true, false), choice(&["c", "d"], false, true)];
        check(&two, "1, 2; 2", &[&["a", "b"], &["d"]]);
        check(&two, "b\n\n other; words ", &[&["b"], &["other; words"]]);
        for wrong in ["1", "1; 2; 2", "a", "9; 1", "1; 9", "nonsense; 1"] {
            check_wrong(&two, wrong);
        }
        assert_eq!(read(&two, "what do you mean?"), Err(NoChoice::Other));
    }
}
