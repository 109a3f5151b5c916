//! What humans are told of questions and answers, and what agents are told of a refusal. Each text
//! says what happened and what to do. Pure.

use std::time::Duration;

use crate::{
    bridge::wire::Outcome,
    permission::{
        approval_prompt::{self, ApprovalRequest},
        code::Code,
    },
};

/// How a question ended without an answer.
pub(super) const EXPIRED: &str = ". It was not answered in time, so it was refused; tell the agent \
    if it is to be done after all.";
pub(super) const WITHDRAWN: &str = ". The agent no longer waits for it; nothing was allowed.";
pub(super) const REFUSED: &str = ". It could not be put to you; nothing was allowed.";
pub(super) const TURN_ENDED: &str = ". It ended with its turn; nothing was allowed.";

/// Why a question is refused at once, for the agent.
pub(super) const TOO_MANY: &str =
    "Refused: too many questions are open on this thread already. Wait for their answers.";
pub(super) const CODE_IS_TAKEN: &str =
    "Refused: the question could not be put to the human. Try it again.";

/// Why a text that looks like a choice is none.
pub(super) const SAY_WHICH: &str = "Say which option you choose.";
pub(super) const ONE_ONLY: &str = "Only one can be chosen.";
pub(super) const NO_SUCH_OPTION: &str = "A part of it is not one of the options.";
pub(super) const AMBIGUOUS: &str = "It could mean more than one of the options.";

/// Why a text without a code does not answer the only open question.
pub(super) const EARLY: &str = "That may have been written before the question was asked.";
pub(super) const NO_TIMES: &str =
    "The bridge does not say when this was written, so it may have been before the question.";
pub(super) const ANOTHER_ENDED: &str =
    "Another question ended meanwhile, so it is not clear which one this is meant for.";

pub(super) fn wrong_count(questions: usize, given: usize) -> String {
    format!(
        "There are {questions} questions, and this has {given} answers; put `;` or a new line between them."
    )
}

pub(super) fn wrong_number(options: usize) -> String {
    match options {
        1 => "There is only option 1.".to_owned(),
        _ => format!("There are options 1 to {options}."),
    }
}

/// How a question is to be answered.
fn how(request: &ApprovalRequest) -> String {
    let code = request.code;
    if request.question.choices.is_empty() {
        format!("Answer with `approve {code}` or `deny {code} because …`.")
    } else {
        format!("Answer with `{code}` and what you choose, or `deny {code} because …`.")
    }
}

pub(super) fn denied() -> String {
    "The human refused this and gave no reason. Do not look for a way around it; ask, or end your \
     turn."
        .to_owned()
}

pub(super) fn denied_because(words: &str) -> String {
    format!("The human refused this and says: {words}")
}

pub(super) fn not_answered(limit: Duration) -> String {
    format!(
        "Nobody answered within {}, so this is refused. Do not look for a way around it; say in \
         your answer what you wanted to do and why, and end your turn.",
        approval_prompt::wait(limit)
    )
}

pub(super) fn caught_up(text: &str) -> String {
    format!(
        "{text} was read while catching up after an outage, so it answers no question. Send it \
         again if it still holds."
    )
}

pub(super) fn by_token(request: &ApprovalRequest) -> String {
    format!(
        "That came with a machine's token, and only a person may allow or choose something: sign in \
         to the bridge's page and answer there. Nothing was done. Question `{}` stays open; a token \
         may refuse it.",
        request.code
    )
}

pub(super) fn unknown(name: &str, open: &[Code]) -> String {
    let open = if open.is_empty() { "No question is open.".to_owned() } else { self::open(open) };
    format!("No question `{name}` is known here. Nothing was done. {open}")
}

pub(super) fn written_before(request: &ApprovalRequest) -> String {
    format!(
        "That was written before question `{}` was asked, so it does not answer it. {}",
        request.code,
        how(request)
    )
}

/// Asks for the code of the only open question, or of one of several.
pub(super) fn name_the_code(open: &[&ApprovalRequest], why: &str) -> String {
    if let [request] = open {
        return format!("{why} Nothing was done. Please name the question. {}", how(request));
    }
    let form = |request: &&ApprovalRequest| match &request.question.choices[..] {
        [] => format!("`approve {}`", request.code),
        _ => format!("`{} 1`", request.code),
    };
    format!(
        "{} questions are pending, so nothing was done. Name the one you mean: {}.",
        open.len(),
        list(open.iter().map(form))
    )
}

pub(super) fn stays_open(request: &ApprovalRequest, why: &str) -> String {
    let space = if why.is_empty() { "" } else { " " };
    format!("{why}{space}Question `{}` stays open. {}", request.code, how(request))
}

pub(super) fn not_shown_whole(request: &ApprovalRequest) -> String {
    let code = request.code;
    format!(
        "Question `{code}` was cut, so nothing was allowed: `/show {code}` shows it whole, then approve \
         it. It stays open."
    )
}

pub(super) fn none_to_show(open: &[Code]) -> String {
    let open = if open.is_empty() { "No question is open.".to_owned() } else { self::open(open) };
    format!("There is no such question to show. {open}")
}

pub(super) fn say_which_to_show(open: &[Code]) -> String {
    format!("Say which question to show, as in `/show {}`. {}", open[0], self::open(open))
}

pub(super) fn no_rule(request: &ApprovalRequest) -> String {
    stays_open(
        request,
        if request.question.choices.is_empty() {
            "No rule matches exactly this, or it is too long to be shown whole, so `always` is not \
             possible here."
        } else {
            "This question asks for a choice, so there is nothing to allow."
        },
    )
}

pub(super) fn answered_already(request: &ApprovalRequest, by: &str) -> String {
    format!("Question `{}` is answered already{by}; this changed nothing.", request.code)
}

pub(super) fn late(request: &ApprovalRequest) -> String {
    format!(
        "Question `{}` has expired: it was not answered within {}, so it is refused. Nothing was \
         allowed.",
        request.code,
        approval_prompt::wait(request.limit)
    )
}

/// For an answer to a question that has ended.
pub(super) fn over(text: &str) -> String {
    format!("That question is over; this changed nothing. {text}")
}

pub(super) fn orphaned(code: Code) -> String {
    format!(
        "**Gone** `{code}`. It ended with its turn when the daemon was restarted; nothing was \
         allowed. Say `continue` to go on."
    )
}

/// How a question ended.
pub(super) fn closed(request: &ApprovalRequest, outcome: Outcome, by: &str, note: &str) -> String {
    let title = match outcome {
        Outcome::Allowed | Outcome::Always => "Allowed",
        Outcome::Denied => "Refused",
        Outcome::Answered => "Answered",
        Outcome::Expired => "Expired",
        Outcome::Gone => "Gone",
    };
    let granted = approval_prompt::granted(request).filter(|_| outcome == Outcome::Always);
    let rule = granted.map(|it| format!(". Allowed on this thread from now on: {it}."));
    let what = approval_prompt::summary(&request.question);
    format!("**{title}** `{}`{by}: {what}{}{note}", request.code, rule.unwrap_or_default())
}

pub(super) fn open(codes: &[Code]) -> String {
    format!("Still open: {}.", list(codes.iter().map(|code| format!("`{code}`"))))
}

fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    const LISTED: usize = 10;
    let more = names.len().saturating_sub(LISTED);
    let names: Vec<String> = names.take(LISTED).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}
