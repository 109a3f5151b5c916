//! The final text of a turn, from the chunks in which an ACP agent streams it. Pure.

use crate::agent::text::ANSWER_BYTES;

/// Agents say things before, between and after their tools. Each such run of text is a segment;
/// the last one that is not empty is the answer.
#[derive(Debug, Default)]
pub(super) struct AgentAnswer {
    text: String,
    message: Option<String>,
    broken: bool,
}

impl AgentAnswer {
    /// A chunk of the message `message`, if the agent names its messages (codex-acp 0.16.0, gemini
    /// and qwen do not).
    pub(super) fn push(&mut self, message: Option<&str>, chunk: &str) {
        if chunk.is_empty() {
            return;
        }
        let other = message.is_some() && self.message.as_deref() != message;
        if self.broken || other {
            self.text.clear();
        }
        self.broken = false;
        self.message = message.map(str::to_owned);
        let room = ANSWER_BYTES.saturating_sub(self.text.len());
        self.text.push_str(&chunk[..chunk.floor_char_boundary(room)]);
    }

    /// Something else came: text after it is a new segment.
    pub(super) fn end_segment(&mut self) {
        self.broken = true;
    }

    /// The last segment that had text.
    pub(super) fn text(&self) -> String {
        self.text.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[(Option<&str>, &str)], expected: &str) {
        let mut answer = AgentAnswer::default();
        for (message, chunk) in chunks {
            if *chunk == "|" {
                answer.end_segment();
            } else {
                answer.push(*message, chunk);
            }
        }
        assert_eq!(answer.text(), expected);
    }

    #[test]
    fn the_last_segment_with_text_is_the_answer() {
        check(&[], "");
        check(&[(None, "Hel"), (None, "lo")], "Hello");
        check(&[(None, "I will."), (None, "|"), (None, "Done.")], "Done.");
        check(&[(None, "Done."), (None, "|")], "Done.");
        check(&[(None, "Done."), (None, "|"), (None, "")], "Done.");
        check(&[(Some("1"), "before"), (Some("2"), "af"), (Some("2"), "ter")], "after");
        check(&[(Some("1"), "a"), (None, "b")], "ab");
    }

    #[test]
    fn an_endless_answer_is_cut_at_a_character() {
        let mut answer = AgentAnswer::default();
        answer.push(None, "x");
        answer.push(None, &"ä".repeat(ANSWER_BYTES));
        assert_eq!(answer.text().len(), ANSWER_BYTES - 1);
    }
}
