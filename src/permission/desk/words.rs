//! What the human is told of questions and answers, and what the agent is told of a refusal. Each
//! says what happened and what to do. Pure.

use std::time::Duration;

use super::Past;
use crate::permission::{
    card::{self, Asked},
    code::Code,
};

pub(super) const SAY_WHICH: &str = "Say what you choose.";
pub(super) const ONE_ONLY: &str = "Only one can be chosen.";

pub(super) fn wrong_count(asked: usize, given: usize) -> String {
    format!(
        "There are {asked} questions, and this has {given} answers; put `;` or a new line between them."
    )
}

pub(super) fn wrong_number(options: usize) -> String {
    match options {
        1 => "There is only option 1.".to_owned(),
        _ => format!("There are options 1 to {options}."),
    }
}

pub(super) fn no_such_option() -> String {
    "A part of it is none of the options.".to_owned()
}

pub(super) fn ambiguous() -> String {
    "It could mean more than one of the options.".to_owned()
}

/// How a question is to be answered; the end of many a reply.
fn how(asked: &Asked) -> String {
    let code = asked.code;
    if asked.question.choices.is_empty() {
        format!("Answer with `approve {code}` or `deny {code} because …`.")
    } else {
        format!("Answer with `{code}` and what you choose, or `deny {code} because …`.")
    }
}

/// What the agent is told of a refusal without words.
pub(super) fn denied() -> String {
    "The human refused this and gave no reason. Do not look for a way around it; ask, or end your \
     turn."
        .to_owned()
}

pub(super) fn denied_because(words: &str) -> String {
    format!("The human refused this and says: {words}")
}

pub(super) fn nobody_answered(limit: Duration) -> String {
    format!(
        "Nobody answered within {}, so this is refused. Do not look for a way around it; say in \
         your answer what you wanted to do and why, and end your turn.",
        card::wait(limit)
    )
}

pub(super) fn too_many(open: usize) -> String {
    format!("Refused: {open} questions are open on this thread already. Wait for their answers.")
}

pub(super) fn code_is_taken() -> String {
    "Refused: the question could not be put to the human. Try it again.".to_owned()
}

/// Replies to what answered nothing.
pub(super) fn caught_up(text: &str) -> String {
    format!(
        "{text} was read while catching up, and what is caught up with never answers a question. \
         Say it again if it still holds."
    )
}

pub(super) fn unknown(code: Code, open: &[Code]) -> String {
    match open {
        [] => format!("No question `{code}` is known here, and none is open. Nothing was done."),
        _ => format!("No question `{code}` is known here. Nothing was done; open: {}.", list(open)),
    }
}

pub(super) fn mistyped(text: &str, open: &[Code]) -> String {
    let open = if open.is_empty() { "no question is".to_owned() } else { list(open) };
    format!("{text} is not the code of a question. Nothing was done; open: {open}.")
}

pub(super) fn written_before(asked: &Asked) -> String {
    format!(
        "That was written before question `{}` was asked, so it does not answer it. {}",
        asked.code,
        how(asked)
    )
}

pub(super) fn name_the_code(asked: &Asked, why: &str) -> String {
    format!("{why} Please name the question. {}", how(asked))
}

pub(super) const NO_TIMES: &str =
    "The bridge does not say when this was written, so it may have been before the question.";
pub(super) const ANOTHER_LAPSED: &str =
    "An older question ended meanwhile, so it is not clear which one this is meant for.";
pub(super) const OLDEST_IS_NO_CHOICE: &str =
    "The oldest open question has no numbered options, and others are open.";

pub(super) fn not_an_answer(asked: &Asked, why: &str) -> String {
    let space = if why.is_empty() { "" } else { " " };
    format!("{why}{space}Question `{}` stays open. {}", asked.code, how(asked))
}

pub(super) fn no_rule(asked: &Asked) -> String {
    let code = asked.code;
    if asked.question.choices.is_empty() {
        format!(
            "Nothing can be allowed for always here: no rule describes just this. Question \
             `{code}` stays open. {}",
            how(asked)
        )
    } else {
        not_an_answer(asked, "There is nothing to allow here, only something to choose.")
    }
}

pub(super) fn being_told(asked: &Asked, by: &str) -> String {
    format!("Question `{}` is answered already{by}. Nothing else was done.", asked.code)
}

pub(super) fn late(asked: &Asked) -> String {
    format!(
        "Question `{}` has expired: it was not answered within {}, so it is refused. Nothing was \
         allowed.",
        asked.code,
        card::wait(asked.limit)
    )
}

pub(super) fn nothing_open(past: &Past) -> String {
    format!("No question is open. {}", story(past))
}

/// What became of a question.
pub(super) fn story(past: &Past) -> String {
    use super::Fate::{
        Allowed, Always, Answered, Denied, Died, Ended, Expired, Refused, Withdrawn,
    };
    let Past { code, fate, by, .. } = past;
    let rest = match fate {
        Allowed => format!("was allowed{by}. That is done; nothing else was allowed."),
        Always => format!("was allowed for always on this thread{by}. Nothing else was allowed."),
        Denied => format!("was refused{by}. To have it done after all, tell the agent."),
        Answered => format!("was answered{by}."),
        Expired => "has expired and was refused. Nothing was allowed.".to_owned(),
        Withdrawn => "is no longer waited for by the agent. Nothing was allowed.".to_owned(),
        Refused => "was refused at once. Nothing was allowed.".to_owned(),
        Ended => "ended with its turn. Nothing was allowed; say `continue` to go on.".to_owned(),
        Died => "died with its turn when the daemon was restarted. Nothing was allowed; say \
                 `continue` to go on."
            .to_owned(),
    };
    format!("Question `{code}` {rest}")
}

/// The post that says a question's end.
pub(super) fn closed(past: &Past, what: &str, rule: Option<&str>) -> String {
    use super::Fate::{
        Allowed, Always, Answered, Denied, Died, Ended, Expired, Refused, Withdrawn,
    };
    let Past { code, fate, by, .. } = past;
    match fate {
        Allowed => format!("**Allowed** `{code}`{by}: {what}"),
        Always => {
            let rule = rule.map(|rule| format!(" {rule} is allowed on this thread from now on."));
            format!("**Allowed** `{code}`{by}: {what}.{}", rule.unwrap_or_default())
        }
        Denied => format!("**Refused** `{code}`{by}: {what}"),
        Answered => format!("**Answered** `{code}`{by}: {what}"),
        Expired => format!(
            "**Expired** `{code}`: {what}. Nobody answered in time, so it was refused; tell the \
             agent if it is to be done after all."
        ),
        Withdrawn => format!("**Gone** `{code}`: {what}. The agent no longer waits for it."),
        Refused => format!("**Refused** `{code}`: {what}. It could not be put to you."),
        Ended => format!("**Gone** `{code}`: {what}. It ended with its turn; nothing was allowed."),
        Died => story(past),
    }
}

pub(super) fn still_open(open: &[Code]) -> String {
    format!("Still open: {}.", list(open))
}

pub(super) fn went_to_the_oldest() -> String {
    "No question was named, so this went to the oldest.".to_owned()
}

fn list(codes: &[Code]) -> String {
    const LISTED: usize = 10;
    let names: Vec<_> = codes.iter().take(LISTED).map(|code| format!("`{code}`")).collect();
    let more = codes.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}
