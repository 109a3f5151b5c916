//! What several engines ask in the same shape, read in one way. Pure.

use serde_json::Value;

use super::{
    Change, Choice, ChoiceOption, Edit,
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
    let change = if target.is_some() { Change::Move } else { Change::Modify };
    let note = format!(" (moved from {})\n", path.escape_debug());
    let target = target.map(|target| Edit {
        path: target.to_owned(),
        diff: note,
        change: Change::MoveTarget,
    });
    [Edit { path: path.to_owned(), diff, change }].into_iter().chain(target).collect()
}

/// Those of the pointers that lead to a text in the input, or to nothing: what a question says of it
/// is a text, and a value of another type is not said.
pub fn texts(input: &Value, pointers: &[&str]) -> Vec<String> {
    let is_text = |pointer: &&&str| {
        input.pointer(pointer).is_some_and(|value| value.is_string() || value.is_null())
    };
    pointers.iter().filter(is_text).map(|pointer| (*pointer).to_owned()).collect()
}

/// The same for each object of the list at `list`.
pub fn texts_of_each(input: &Value, list: &str, pointers: &[&str]) -> Vec<String> {
    let count = self::list(input, list).len();
    let each = (0..count).flat_map(|at| pointers.iter().map(move |it| format!("{list}/{at}{it}")));
    let each: Vec<String> = each.collect();
    texts(input, &each.iter().map(String::as_str).collect::<Vec<_>>())
}
