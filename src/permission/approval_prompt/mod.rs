//! The prompt for an approval: Markdown for every reader, and a card for a page that shows buttons.
//! Humans decide by it, so it says all that they consent to, and text of the agent must not pass
//! for the prompt's own: it appears only as code, cleaned, between a first and a last paragraph
//! that are ours. Pure.

pub(in crate::permission) mod clean;
mod details;
#[cfg(test)]
mod tests;
mod words;

use std::{path::PathBuf, time::Duration};

pub(super) use self::clean::is_hidden;
use self::words::{choice_example, choice_rule, grant, wish};
pub(in crate::permission) use self::words::{engine, wait};
use crate::{
    agent::{Choice, Question},
    bridge::wire::{self, CardChoice, CardDetail, CardOption, DetailForm},
    ids::{ClientMsgId, Engine, ThreadId, TurnId},
    permission::{code::Code, kind_name},
    time::Timestamp,
};

/// Characters of a path, a tool's name, a rule, a reason. What is longer is shown whole among the
/// details.
const NAME_CHARS: usize = 400;
const PROSE_CHARS: usize = 600;

/// Characters of the rule that `always` adds: one that does not fit is not offered.
const ALWAYS_CHARS: usize = 1_000;

/// Questions of a choice and their options, and characters of each. More is refused.
const QUESTIONS: usize = 10;
const OPTIONS: usize = 50;
const CHOICE_CHARS: usize = 4_000;
const LABEL_CHARS: usize = 1_000;

/// A value in the list of arguments that has a line of its own; a longer one has a block.
const LINE_CHARS: usize = 200;

/// Characters of a post that shows a part of the whole.
const POST_CHARS: usize = 16_000;

/// A question put to the humans of a thread, with everything that its prompt says.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalRequest {
    pub thread: ThreadId,
    pub turn: TurnId,
    pub engine: Engine,
    pub question: Question,
    pub code: Code,
    /// Where the engine works.
    pub directory: PathBuf,
    /// The rule by which it is asked, if there is one.
    pub rule: Option<String>,
    /// Why it is asked, half a sentence for people.
    pub why: String,
    /// The rule that `always` would add on this thread, if there is one that [`can_be_offered`].
    pub always: Option<String>,
    /// The post that asks.
    pub post: ClientMsgId,
    pub asked_at: Timestamp,
    /// From `asked_at` on; then it is denied.
    pub limit: Duration,
    /// Whether the engine can be told why something is refused.
    pub takes_reasons: bool,
}

/// Everything that a prompt says, cleaned.
struct Prompt<'a> {
    request: &'a ApprovalRequest,
    /// Where it would act, and the project if that is elsewhere.
    directory: String,
    project: Option<String>,
    tool: String,
    reason: Option<String>,
    rule: Option<String>,
    why: String,
    all: Vec<CardDetail>,
    /// What is shown at once, if that is not all.
    cut: Option<Vec<CardDetail>>,
}

impl Prompt<'_> {
    fn of(request: &ApprovalRequest) -> Prompt<'_> {
        let question = &request.question;
        let project = request.directory.to_string_lossy();
        let (elsewhere, said) = details::place(question, &project);
        let is_permission = question.choices.is_empty();
        let mut all = if is_permission { details::all(question, &said) } else { Vec::new() };
        // What is too long for its place is clipped there, and whole among the details.
        let mut short = |name: &str, text: String, chars: usize| {
            let clipped = clean::clip(&text, chars);
            if clipped != text && is_permission {
                all.push(details::long(name, &text));
            }
            clipped
        };
        let mut place = |text: &str| short("Directory", clean::name(text, usize::MAX), NAME_CHARS);
        let project_shown = place(&project);
        let elsewhere = elsewhere.map(place);
        let tool = short("Tool", clean::name(&question.tool, usize::MAX), NAME_CHARS);
        let reason = question.reason.as_deref().filter(|reason| !reason.trim().is_empty());
        let reason = reason.map(|it| short("Reason", clean::prose(it, usize::MAX), PROSE_CHARS));
        let rule = request.rule.as_deref();
        let rule = rule.map(|it| short("Rule", clean::name(it, usize::MAX), NAME_CHARS));
        let (directory, project) = match elsewhere {
            Some(elsewhere) => (elsewhere, Some(project_shown)),
            None => (project_shown, None),
        };
        let why = clean::prose(&request.why, PROSE_CHARS);
        let cut = details::cut(&all);
        Prompt { request, directory, project, tool, reason, rule, why, all, cut }
    }

    fn shown(&self) -> &[CardDetail] {
        self.cut.as_deref().unwrap_or(&self.all)
    }

    fn grant(&self) -> Option<String> {
        self.request.always.as_ref().map(|_| grant(&self.request.question).to_owned())
    }

    fn card(&self) -> wire::Card {
        let ApprovalRequest { question, code, engine, always, .. } = self.request;
        let texts = |form| -> Vec<&CardDetail> {
            self.shown().iter().filter(|it| it.form == form).collect()
        };
        let subject = texts(DetailForm::Text).iter().map(|it| it.text.as_str()).collect::<Vec<_>>();
        let diffs = texts(DetailForm::Diff);
        let diffs = diffs.iter().map(|it| format!("--- {}\n{}", it.name, it.text));
        wire::Card {
            code: code.to_string(),
            engine: engine.clone(),
            kind: kind(question).to_owned(),
            tool: self.tool.clone(),
            asks: wish(question),
            subject: subject.join("\n…\n"),
            diff: diffs.collect::<Vec<_>>().join("\n"),
            details: self.shown().to_vec(),
            whole: if self.cut.is_some() { self.all.clone() } else { Vec::new() },
            directory: self.directory.clone(),
            project: self.project.clone(),
            reason: self.reason.clone(),
            rule: self.rule.clone(),
            why: self.why.clone(),
            always: always.clone(),
            grant: self.grant(),
            choices: question.choices.iter().map(choice).collect(),
            expires_at: self.request.asked_at.plus(self.request.limit).to_string(),
        }
    }

    fn body(&self) -> String {
        let ApprovalRequest { question, code, .. } = self.request;
        let project = self.project.as_deref();
        let project = project.map(|it| format!(" (the project is {})", clean::code(it)));
        let mut parts = vec![format!(
            "**{} {}** in {}{}. Question `{code}`.",
            engine(&self.request.engine),
            wish(question),
            clean::code(&self.directory),
            project.unwrap_or_default(),
        )];
        if question.choices.is_empty() {
            for detail in self.shown() {
                put(detail, &mut parts);
            }
        } else {
            choices(&question.choices, &mut parts);
        }
        let reason = self.reason.as_deref().map(clean::code);
        let reason = reason.map(|reason| format!(" The agent's reason: {reason}."));
        parts.push(format!(
            "Tool: {}.{}{}",
            clean::code(&self.tool),
            reason.unwrap_or_default(),
            self.asked_because()
        ));
        parts.push(self.how_to_answer(self.cut.is_some()));
        parts.join("\n\n")
    }

    /// Why a person is asked, and not the policy.
    fn asked_because(&self) -> String {
        // The policy's own words; code, should they ever be more than words.
        let is_plain = |c: char| c.is_alphanumeric() || " ,.:;'()-/".contains(c);
        let why =
            if self.why.chars().all(is_plain) { self.why.clone() } else { clean::code(&self.why) };
        match &self.rule {
            _ if !self.request.question.choices.is_empty() || self.why.is_empty() => String::new(),
            Some(rule) => format!(" Asked by the rule {}: {why}.", clean::code(rule)),
            None => format!(" Asked because {why}."),
        }
    }

    /// The last paragraph.
    fn how_to_answer(&self, is_cut: bool) -> String {
        let ApprovalRequest { code, question, .. } = self.request;
        let engine = engine(&self.request.engine);
        let mut lines = Vec::new();
        if question.choices.is_empty() {
            if is_cut {
                lines.push(format!(
                    "- `/show {code}` shows the whole of it here. Only what was shown whole can be allowed."
                ));
            }
            lines.push(format!("- `approve {code}` allows it once."));
            if let (Some(rule), Some(grant)) = (&self.request.always, self.grant()) {
                lines.push(format!(
                    "- `always {code}` allows it, and from now on, on this thread only, {grant}: {}.",
                    clean::code(&clean::name(rule, usize::MAX))
                ));
            }
        } else {
            let example = choice_example(&question.choices);
            let rule = choice_rule(&question.choices);
            lines.push(format!("- `{code} {example}` answers it: {rule}."));
        }
        let (deny, reason) = if self.request.takes_reasons {
            let reason = format!("and {engine} gets the text as the reason");
            (format!("- `deny {code} because …` refuses it and tells {engine} why."), reason)
        } else {
            // A human who gives a reason should know that only the thread shows it.
            let reason = format!("and {engine} is not told why");
            (format!("- `deny {code}` refuses it; {engine} can't be told why."), reason)
        };
        lines.push(deny);
        let expires = self.request.asked_at.plus(self.request.limit).to_string();
        let minute = expires.get(..16).unwrap_or(&expires);
        format!(
            "How to answer:\n\n{}\n\nAny other text refuses it if no other question is open, {reason}. \
             Without an answer it is refused at {minute}Z, in {}.",
            lines.join("\n"),
            wait(self.request.limit)
        )
    }
}

/// The post's body in Markdown, and the card that says the same.
pub fn render(request: &ApprovalRequest) -> (String, wire::Card) {
    let prompt = Prompt::of(request);
    (prompt.body(), prompt.card())
}

/// Whether the prompt leaves something out.
pub fn is_cut(request: &ApprovalRequest) -> bool {
    Prompt::of(request).cut.is_some()
}

/// Why a question can't be put to a person, if it can't: they could not be shown all of it. For the
/// agent.
pub fn too_large(request: &ApprovalRequest) -> Option<String> {
    let choices = &request.question.choices;
    let is_long = |text: &str, chars| clean::prose(text, usize::MAX).chars().count() > chars;
    let is_large = |choice: &Choice| {
        let options = &choice.options;
        choice.options.len() > OPTIONS
            || is_long(&choice.question, CHOICE_CHARS)
            || options.iter().any(|it| is_long(&it.label, LABEL_CHARS))
            || options.iter().any(|it| is_long(&it.description, CHOICE_CHARS))
    };
    if choices.len() > QUESTIONS || choices.iter().any(is_large) {
        return Some(
            "Refused: these questions are too long for a person to be shown whole. Ask fewer, or \
             in fewer words."
                .to_owned(),
        );
    }
    let why = details::too_large(&Prompt::of(request).all)?;
    Some(format!(
        "Refused: this is too large for a person to be shown whole before they allow it: {why}. \
         Split it into smaller steps, or put the text into a file first and keep the call short."
    ))
}

/// Tells a person that something was refused without asking them.
pub fn not_put(engine: &Engine, question: &Question, why: &str) -> String {
    let (engine, wish) = (words::engine(engine), wish(question));
    format!("**{engine} {wish}**: {}. It was refused: {why}.", summary(question))
}

/// Whether a rule can be shown word for word. What people don't see whole they can't grant.
pub fn can_be_offered(rule: &str) -> bool {
    rule.chars().count() <= ALWAYS_CHARS
        && clean::name(rule, usize::MAX) == rule
        && !rule.contains('`')
}

/// The whole of a question, in as many posts as it takes.
pub fn whole(request: &ApprovalRequest) -> Vec<String> {
    let prompt = Prompt::of(request);
    let mut pieces = Vec::new();
    for detail in &prompt.all {
        for piece in split(detail) {
            put(&piece, &mut pieces);
        }
    }
    let mut posts: Vec<String> = vec![String::new()];
    for piece in pieces {
        let last = posts.last_mut().expect("it begins with one");
        if !last.is_empty() && last.chars().count() + piece.chars().count() > POST_CHARS {
            posts.push(piece);
        } else {
            last.push_str(if last.is_empty() { "" } else { "\n\n" });
            last.push_str(&piece);
        }
    }
    let count = posts.len();
    let number = |(at, post): (usize, String)| {
        let end = if at + 1 == count {
            format!("\n\nThat is all of it.\n\n{}", prompt.how_to_answer(false))
        } else {
            String::new()
        };
        format!(
            "**The whole of question** `{}`, part {} of {count}:\n\n{post}{end}",
            request.code,
            at + 1
        )
    };
    posts.into_iter().enumerate().map(number).collect()
}

/// A part in pieces that fit into a post, cut between lines where that is possible.
fn split(detail: &CardDetail) -> Vec<CardDetail> {
    const PIECE_CHARS: usize = POST_CHARS / 2;
    let (mut pieces, mut rest) = (Vec::new(), detail.text.as_str());
    while let Some((end, _)) = rest.char_indices().nth(PIECE_CHARS) {
        let at = rest[..end].rfind('\n').map_or(end, |at| at + 1);
        pieces.push(rest[..at].to_owned());
        rest = &rest[at..];
    }
    pieces.push(rest.to_owned());
    pieces.into_iter().map(|text| CardDetail { text, ..detail.clone() }).collect()
}

/// A question in one line of Markdown: its code and what it is about.
pub fn line(request: &ApprovalRequest) -> String {
    format!("`{}`: {}", request.code, summary(&request.question))
}

/// What an engine wants in a few words, for the line that says how the question ended.
pub(in crate::permission) fn summary(question: &Question) -> String {
    const SUMMARY_CHARS: usize = 80;
    let text = match (&question.choices[..], &question.edits[..]) {
        ([choice, ..], _) => clean::prose(&choice.question, SUMMARY_CHARS),
        (_, [edit, ..]) if question.subject.is_empty() => clean::name(&edit.path, SUMMARY_CHARS),
        _ if question.subject.is_empty() => clean::name(&question.tool, SUMMARY_CHARS),
        _ => clean::prose(&question.subject, SUMMARY_CHARS),
    };
    clean::code(&text)
}

/// What a grant of `always` allows, in words and as the rule.
pub(in crate::permission) fn granted(request: &ApprovalRequest) -> Option<String> {
    let rule = request.always.as_deref()?;
    let rule = clean::code(&clean::name(rule, usize::MAX));
    Some(format!("{} ({rule})", grant(&request.question)))
}

fn kind(question: &Question) -> &'static str {
    if question.choices.is_empty() { kind_name(question.kind) } else { "choice" }
}

fn choice(choice: &Choice) -> CardChoice {
    let options = choice.options.iter().map(|option| CardOption {
        label: clean::prose(&option.label, usize::MAX),
        description: clean::prose(&option.description, usize::MAX),
    });
    CardChoice {
        question: clean::prose(&choice.question, usize::MAX),
        options: options.collect(),
        is_multiple: choice.is_multiple,
        is_open: choice.is_open,
    }
}

/// A part as Markdown.
fn put(detail: &CardDetail, parts: &mut Vec<String>) {
    let CardDetail { form, title, name, text } = detail;
    let name = if name.is_empty() { String::new() } else { clean::code(name) };
    let title = if title.is_empty() { name } else { format!("{title} {name}").trim().to_owned() };
    match form {
        DetailForm::Cut => parts.push(format!("**{title}**")),
        DetailForm::Text => parts.push(clean::fence(text, "")),
        DetailForm::Field if !text.contains('\n') && text.chars().count() <= LINE_CHARS => {
            let line = format!("- {title}: {}", clean::code(text));
            match parts.last_mut() {
                Some(list) if list.starts_with("- ") => *list = format!("{list}\n{line}"),
                _ => parts.push(line),
            }
        }
        DetailForm::Diff | DetailForm::Field => {
            if text.is_empty() {
                return parts.push(format!("{title}."));
            }
            let language = if *form == DetailForm::Diff { "diff" } else { "" };
            parts.push(format!("{title}:"));
            parts.push(clean::fence(text, language));
        }
    }
}

fn choices(choices: &[Choice], parts: &mut Vec<String>) {
    for (at, choice) in choices.iter().enumerate() {
        let title = if choices.len() == 1 {
            "Question".to_owned()
        } else {
            format!("Question {} of {}", at + 1, choices.len())
        };
        let how = match (choice.options.is_empty(), choice.is_multiple, choice.is_open) {
            (true, ..) => "in your own words",
            (_, true, true) => "one or more, or your own words",
            (_, true, false) => "one or more",
            (_, false, true) => "one, or your own words",
            (_, false, false) => "one",
        };
        let question = clean::code(&clean::prose(&choice.question, usize::MAX));
        let mut lines = vec![format!("**{title}** ({how}): {question}"), String::new()];
        for (number, option) in choice.options.iter().enumerate() {
            let label = clean::code(&clean::prose(&option.label, usize::MAX));
            let about = clean::prose(&option.description, usize::MAX);
            let about = if about.is_empty() { about } else { format!(": {}", clean::code(&about)) };
            lines.push(format!("{}. {label}{about}", number + 1));
        }
        parts.push(lines.join("\n").trim_end().to_owned());
    }
}
