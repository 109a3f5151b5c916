//! Who may do what when nobody can be asked: a fixed list of actions that only look is allowed,
//! all others are refused with words that help both readers, the agent and its human. Pure.

pub mod answer;
pub mod card;
pub mod code;
pub mod desk;

use crate::agent::{ActionKind, Question, Verdict};

/// Claude Code's tools that change nothing outside its own session (protocol section 8). They are
/// listed by name because their kind is [`ActionKind::Other`]; the rest of the list is the kinds
/// [`ActionKind::Read`] and [`ActionKind::Fetch`].
const HARMLESS: [&str; 1] = ["TodoWrite"];

/// Decides without the human. Reading is allowed anywhere, also outside the project: Claude Code
/// asks for that, and the reference allows it.
pub fn decide(question: &Question) -> Verdict {
    match question.kind {
        ActionKind::Read | ActionKind::Fetch => Verdict::Allow,
        ActionKind::Other if HARMLESS.contains(&question.tool.as_str()) => Verdict::Allow,
        ActionKind::Edit | ActionKind::Run | ActionKind::Mcp | ActionKind::Other => {
            Verdict::Deny { reason: refusal(&question.tool) }
        }
    }
}

fn refusal(tool: &str) -> String {
    format!(
        "{tool} is not allowed on this machine: only tools that read are, and nobody is asked. Do \
         not look for a way around this. Post a `question` (without bridge tools: ask in your final \
         answer) that says what you want to do and why, and end your turn; the human can do it, or allow it by setting `relayPermissions` (each \
         such action is put to them on the thread) or `allowAll` (nothing is asked) in the \
         machine's bridge configuration."
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::QuestionId;

    #[track_caller]
    fn check(kind: ActionKind, tools: &[&str], allowed: bool) {
        for tool in tools {
            let question = Question {
                id: QuestionId("1".to_owned()),
                tool: (*tool).to_owned(),
                kind,
                subject: String::new(),
                reason: None,
                input: json!({}),
                edits: Vec::new(),
                choices: Vec::new(),
            };
            assert_eq!(decide(&question) == Verdict::Allow, allowed, "{kind:?} {tool}");
        }
    }

    #[test]
    fn reading_is_allowed_whatever_the_engine_calls_it() {
        check(ActionKind::Read, &["Read", "Glob", "Grep", "NotebookRead", "read", "list"], true);
        check(ActionKind::Fetch, &["WebFetch", "WebSearch", "webfetch"], true);
        check(ActionKind::Other, &["TodoWrite"], true);
    }

    #[test]
    fn everything_else_is_refused() {
        check(ActionKind::Edit, &["Write", "Edit", "MultiEdit", "NotebookEdit", "edit"], false);
        check(ActionKind::Run, &["Bash", "commandExecution", "bash"], false);
        check(ActionKind::Mcp, &["mcp__github__merge"], false);
        check(ActionKind::Other, &["Skill", "Agent", "AskUserQuestion", "", "Todo"], false);
    }

    /// A name is no licence: what matters is what the protocol made of the tool.
    #[test]
    fn a_harmless_name_does_not_cover_another_kind() {
        check(ActionKind::Run, &["Read", "TodoWrite"], false);
        check(ActionKind::Mcp, &["TodoWrite", "Grep"], false);
    }

    #[test]
    fn a_refusal_tells_the_agent_and_the_human_what_to_do() {
        let text = refusal("Bash");
        for part in ["Bash", "`question`", "end your turn", "`relayPermissions`", "`allowAll`"] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}
