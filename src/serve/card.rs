//! Questions in parts, and their ends, as daemons send them (protocol section 2). They are shown to
//! a person who decides by them, so only what has the known shape is kept, and no character that
//! could make a command look like another one. What is malformed is dropped; the message stays.

use serde_json::{Map, Value, json};

use crate::{
    serve::store::messages::{Closing, Question},
    time::Timestamp,
    visible,
};

const CODE_CHARS: usize = 64;
const WORD_CHARS: usize = 200;
const TEXT_CHARS: usize = 20_000;
const DIFF_CHARS: usize = 400_000;
/// Characters of a name or a text among the details: a daemon shows at most 200,000 bytes whole.
const DETAIL_CHARS: usize = 400_000;
const DETAILS_MAX: usize = 400;
const CHOICES_MAX: usize = 20;
const OPTIONS_MAX: usize = 50;

const FORMS: &[&str] = &["text", "diff", "field", "cut"];
const OUTCOMES: &[&str] = &["allowed", "always", "denied", "answered", "expired", "gone"];

/// None: it is no question.
pub fn question(value: &Value) -> Option<Question> {
    let fields = value.as_object()?;
    let code = code(fields)?;
    let expires = Timestamp::parse(fields.get("expiresAt")?.as_str()?)?;
    let choices = match fields.get("choices") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(choices)) if choices.len() <= CHOICES_MAX => {
            choices.iter().map(choice).collect::<Option<_>>()?
        }
        Some(_) => return None,
    };
    let card = json!({
        "code": code,
        "agent": text(fields, "agent", WORD_CHARS)?,
        "kind": text(fields, "kind", WORD_CHARS)?,
        "tool": text(fields, "tool", WORD_CHARS)?,
        "asks": optional(fields, "asks", TEXT_CHARS)?,
        "subject": text(fields, "subject", TEXT_CHARS)?,
        "diff": optional(fields, "diff", DIFF_CHARS)?.unwrap_or_default(),
        "details": details(fields.get("details"))?,
        "whole": details(fields.get("whole"))?,
        "directory": text(fields, "directory", TEXT_CHARS)?,
        "project": optional(fields, "project", TEXT_CHARS)?,
        "reason": optional(fields, "reason", TEXT_CHARS)?,
        "rule": optional(fields, "rule", TEXT_CHARS)?,
        "why": optional(fields, "why", TEXT_CHARS)?,
        "always": optional(fields, "always", TEXT_CHARS)?,
        "grant": optional(fields, "grant", TEXT_CHARS)?,
        "choices": choices,
        "expiresAt": expires,
    });
    Some(Question { code, expires, card })
}

/// The parts of what a question is about. One that is malformed makes all of it so: a page must not
/// show the rest as if that were everything.
fn details(value: Option<&Value>) -> Option<Vec<Value>> {
    let parts = match value {
        None | Some(Value::Null) => return Some(Vec::new()),
        Some(Value::Array(parts)) if parts.len() <= DETAILS_MAX => parts,
        Some(_) => return None,
    };
    let part = |part: &Value| {
        let fields = part.as_object()?;
        let form = text(fields, "form", WORD_CHARS)?;
        let field = |name| Some(optional(fields, name, DETAIL_CHARS)?.unwrap_or_default());
        let known = FORMS.contains(&form.as_str());
        let part = json!({
            "form": form, "title": field("title")?, "name": field("name")?, "text": field("text")?,
        });
        known.then_some(part)
    };
    parts.iter().map(part).collect()
}

fn choice(value: &Value) -> Option<Value> {
    let fields = value.as_object()?;
    let options = match fields.get("options")? {
        Value::Array(options) if options.len() <= OPTIONS_MAX => options,
        _ => return None,
    };
    let options = options.iter().map(|option| {
        let fields = option.as_object()?;
        let description = optional(fields, "description", TEXT_CHARS)?.unwrap_or_default();
        Some(json!({ "label": text(fields, "label", TEXT_CHARS)?, "description": description }))
    });
    Some(json!({
        "question": text(fields, "question", TEXT_CHARS)?,
        "options": options.collect::<Option<Vec<_>>>()?,
        "multiple": fields.get("multiple")?.as_bool()?,
        "open": fields.get("open")?.as_bool()?,
    }))
}

/// None: it is no end of a question.
pub fn closing(value: &Value) -> Option<Closing> {
    let fields = value.as_object()?;
    let code = code(fields)?;
    let outcome = text(fields, "outcome", WORD_CHARS)?;
    if !OUTCOMES.contains(&outcome.as_str()) {
        return None;
    }
    Some(Closing { code, outcome })
}

/// A code is typed by people: a word.
fn code(fields: &Map<String, Value>) -> Option<String> {
    let code = text(fields, "code", CODE_CHARS)?;
    (!code.is_empty() && !code.contains(char::is_whitespace)).then_some(code)
}

fn text(fields: &Map<String, Value>, name: &str, max: usize) -> Option<String> {
    optional(fields, name, max)?
}

/// The inner one is none if the field is missing; the outer one if it is no good.
#[expect(clippy::option_option, reason = "missing and malformed differ")]
fn optional(fields: &Map<String, Value>, name: &str, max: usize) -> Option<Option<String>> {
    match fields.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.chars().count() <= max => {
            Some(Some(text.chars().map(|c| if hides(c) { '\u{fffd}' } else { c }).collect()))
        }
        Some(_) => None,
    }
}

/// What a person would not see in it.
fn hides(c: char) -> bool {
    visible::is_hidden(c) && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Value {
        json!({
            "code": "K7", "agent": "claude", "kind": "run", "tool": "Bash", "subject": "ls\n-l",
            "directory": "/p", "always": "ls", "expiresAt": "2026-01-01T00:00:00Z",
            "choices": [{ "question": "Which?", "options": [{ "label": "A" }],
                          "multiple": false, "open": true }],
        })
    }

    #[test]
    fn a_card_is_kept_in_its_known_parts() {
        let mut sent = card();
        sent["more"] = json!("x");
        sent["subject"] = json!("rm \u{202e}fdp.exe\u{1b}[8m");
        let kept = question(&sent).unwrap();
        assert_eq!(kept.code, "K7");
        assert_eq!(kept.card["subject"], "rm \u{fffd}fdp.exe\u{fffd}[8m");
        assert_eq!(kept.card["more"], Value::Null);
        assert_eq!(kept.card["reason"], Value::Null);
        assert_eq!(kept.card["choices"][0]["options"][0]["description"], "");
        assert_eq!(kept.card["expiresAt"], "2026-01-01T00:00:00.000Z");
        assert_eq!(kept.card["details"], json!([]));
        sent["details"] = json!([{ "form": "diff", "name": "a\u{202e}", "text": "+x", "more": 1 }]);
        let part = json!({ "form": "diff", "title": "", "name": "a\u{fffd}", "text": "+x" });
        assert_eq!(question(&sent).unwrap().card["details"], json!([part]));
    }

    #[test]
    fn nothing_in_a_card_hides() {
        for c in
            "\u{0}\u{7f}\u{85}\u{ad}\u{61c}\u{200b}\u{200d}\u{2028}\u{202e}\u{2066}\u{206a}\u{3164}\
                  \u{feff}\u{ffa0}\u{e0041}\u{e0100}\u{2800}\u{a0}\u{fe0f}\u{378}\u{e000}"
                .chars()
        {
            let mut sent = card();
            sent["subject"] = json!(format!("rm{c}x"));
            assert_eq!(question(&sent).unwrap().card["subject"], "rm\u{fffd}x", "{c:?}");
        }
        let mut sent = card();
        sent["subject"] = json!("a\tb\n\u{26a0} ä 漢");
        assert_eq!(question(&sent).unwrap().card["subject"], sent["subject"]);
    }

    #[test]
    fn what_is_malformed_is_no_card() {
        for (name, value) in [
            ("code", json!("")),
            ("code", json!("a b")),
            ("code", json!("x".repeat(65))),
            ("code", json!(7)),
            ("agent", Value::Null),
            ("subject", json!({})),
            ("subject", json!("x".repeat(20_001))),
            ("diff", json!("x".repeat(400_001))),
            ("reason", json!(["a"])),
            ("details", json!("x")),
            ("details", json!([{ "form": "html", "text": "x" }])),
            ("details", json!([{ "form": "text", "text": 1 }])),
            ("whole", json!([{ "form": "text", "text": "x".repeat(400_001) }])),
            ("whole", json!(vec![json!({ "form": "text" }); 401])),
            ("expiresAt", json!("soon")),
            ("expiresAt", json!(1)),
            ("choices", json!({})),
            ("choices", json!([1])),
            ("choices", json!([{ "question": "?" }])),
            ("choices", json!(vec![card()["choices"][0].clone(); 21])),
        ] {
            let mut sent = card();
            sent[name] = value;
            assert!(question(&sent).is_none(), "{name}: {sent}");
        }
        assert!(question(&json!("x")).is_none());
    }

    #[test]
    fn an_end_has_a_known_outcome() {
        let end = closing(&json!({ "code": "K7", "outcome": "denied", "more": 1 })).unwrap();
        assert_eq!(json!(end), json!({ "code": "K7", "outcome": "denied" }));
        for bad in [
            json!({ "code": "K7", "outcome": "<b>" }),
            json!({ "code": "K7", "outcome": 1 }),
            json!({ "outcome": "denied" }),
            json!([]),
        ] {
            assert!(closing(&bad).is_none(), "{bad}");
        }
    }
}
