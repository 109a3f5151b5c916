//! What several engines ask in the same shape, read in one way. Pure.

use serde_json::Value;

use super::{
    Choice, ChoiceOption, Edit,
    text::{list, text},
};

/// One of the model's own questions; `options` may be missing.
pub fn choice(asked: &Value, is_multiple: bool, is_open: bool) -> Choice {
    let option = |option: &Value| ChoiceOption {
        label: text(option, "/label").to_owned(),
        description: text(option, "/description").to_owned(),
    };
    Choice {
        question: text(asked, "/question").to_owned(),
        options: list(asked, "/options").iter().map(option).collect(),
        is_multiple,
        is_open,
    }
}

/// A subject that no rule may take for a path or an address.
pub fn labelled(label: &str, what: &str) -> String {
    if what.is_empty() { String::new() } else { format!("{label}: {what}") }
}

/// Where a search looks. Without a path it is the project.
pub fn directory(input: &Value) -> &str {
    Some(text(input, "/path")).filter(|path| !path.is_empty()).unwrap_or(".")
}

/// Where a pattern for file names leads. One with alternatives or steps upwards may lead to several
/// places, for which no single path stands.
pub fn glob(input: &Value) -> String {
    let (pattern, directory) = (text(input, "/pattern"), directory(input));
    if pattern.contains('{') || pattern.contains("..") {
        String::new()
    } else if directory == "." || pattern.starts_with(['/', '~']) {
        pattern.to_owned()
    } else {
        format!("{}/{pattern}", directory.trim_end_matches('/'))
    }
}

/// The path of an edit, if it is just one: a rule that allows that path must not allow others with
/// it.
pub fn sole_path(edits: &[Edit]) -> String {
    match edits {
        [edit] => edit.path.clone(),
        _ => String::new(),
    }
}

/// The edit of a file that may be moved with it, which touches two.
pub fn moved(path: &str, diff: String, target: Option<&str>) -> Vec<Edit> {
    let note = format!(" (moved from {})\n", path.escape_debug());
    let target = target.map(|target| Edit { path: target.to_owned(), diff: note });
    [Edit { path: path.to_owned(), diff }].into_iter().chain(target).collect()
}
