//! What a prompt needs from the bridge: earlier messages and attachments. Either may fail without
//! costing the turn.

use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::{
    agent::Image,
    bridge::{
        Attachment, Client,
        wire::{Message, Reply},
    },
    ids::ThreadId,
    prompt::{self, Past},
    task,
    time::{self, Timestamp},
    worker::{Shared, words},
};

/// How many messages the history block is chosen from (protocol section 7).
const MESSAGES: u32 = 40;

/// Attachments of one message that are fetched.
const IMAGES: usize = 20;

/// A title longer than this is cut.
const TITLE_CHARS: usize = 60;

/// The newest messages of a thread, asked for while it is being claimed: two round trips at the same
/// time instead of one after the other.
pub type Early = Receiver<Vec<Message>>;

/// Later than every message.
const END_OF_TIME: &str = "9999-12-31T23:59:59.999Z";

/// How long a worker waits for [`Early`]; the client's own limit is shorter.
const EARLY: Duration = Duration::from_mins(1);

/// Asks for the newest messages of a thread that is not ours yet. The channel closes without them
/// when they can't be had.
pub fn ask_early(client: &Client, thread: &ThreadId) -> Option<Early> {
    let (client, thread) = (client.clone(), thread.clone());
    let (messages, early) = bounded(1);
    let asked = task::spawn("history", move || {
        if let Ok(newest) = client.messages_before(&thread, END_OF_TIME, MESSAGES) {
            messages.send(newest).ok(); // The claim may be lost by now.
        }
    });
    asked.is_ok().then_some(early)
}

/// The thread's earlier messages as a block of quotes. None if there are none, or if they can't be
/// had: a turn without history is better than none.
pub(super) fn block(
    shared: &Shared,
    thread: &ThreadId,
    reply: &Reply,
    early: Option<Early>,
) -> Option<String> {
    let early = early.and_then(|early| early.recv_timeout(EARLY).ok());
    let messages = match early {
        Some(newest) => newest.into_iter().filter(|message| is_earlier(message, reply)).collect(),
        None => fetch(shared, thread, reply)?,
    };
    let is_current =
        |message: &Message| message.message_id.is_some() && message.message_id == reply.message_id;
    let past: Vec<Past> = messages
        .into_iter()
        .filter(|message| !is_current(message) && !is_permission_question(message))
        .map(|message| Past {
            created_at: message.created_at.clone().unwrap_or_default(),
            human: message.is_human(),
            author: message.author.unwrap_or_default(),
            body: message.body,
        })
        .collect();
    prompt::history(&past)
}

fn fetch(shared: &Shared, thread: &ThreadId, reply: &Reply) -> Option<Vec<Message>> {
    let before = reply.created_at.clone().unwrap_or_else(|| time::now().to_string());
    let messages = shared.client.messages_before(thread, &before, MESSAGES);
    messages
        .inspect_err(|error| {
            log::warn!(threadId = thread.as_str(), error:% = error; "going on without history");
        })
        .ok()
}

/// Whether a message was there before `reply` was written: what came later is not history.
fn is_earlier(message: &Message, reply: &Reply) -> bool {
    let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
    match (time(&message.created_at), time(&reply.created_at)) {
        (Some(message), Some(reply)) => message < reply,
        _ => true,
    }
}

fn is_permission_question(message: &Message) -> bool {
    message.author.as_deref().is_some_and(|author| author.ends_with("-bridge-perm"))
}

/// A short name for a fresh session: the beginning of the message's first line.
pub(super) fn title(reply: &Reply) -> String {
    let line = reply.body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("Bridge");
    line.chars().filter(|c| !c.is_control()).take(TITLE_CHARS).collect()
}

/// A message's attachments, as far as they could be had.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) images: Vec<Image>,
    /// Says in the prompt how many are missing.
    pub(super) note: String,
}

pub(super) fn images(shared: &Shared, reply: &Reply) -> Gathered {
    let mut gathered = Gathered::default();
    for id in reply.attachment_ids.iter().take(IMAGES) {
        match shared.client.attachment(id) {
            Ok(Attachment { media_type, bytes }) if media_type.starts_with("image/") => {
                gathered.images.push(Image { media_type, bytes });
            }
            Ok(Attachment { media_type, .. }) => {
                log::warn!(attachment = id.as_str(), media_type = media_type.as_str(); "attachment left out: no image");
            }
            Err(error) => {
                log::warn!(attachment = id.as_str(), error:% = error; "attachment left out");
            }
        }
    }
    let missing = reply.attachment_ids.len() - gathered.images.len();
    if missing > 0 {
        gathered.note = format!("\n\n{}", words::attachments_left_out(missing));
    }
    gathered
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_written_later_is_no_history() {
        let reply =
            Reply::parse(r#"{"threadId":"t","createdAt":"2026-11-22T10:00:00.000Z"}"#).unwrap();
        let earlier = |created_at: &str| {
            let value = json!({"body": "b", "createdAt": created_at});
            is_earlier(&Message::from_value(&value, &reply.thread_id).unwrap(), &reply)
        };
        assert!(earlier("2026-11-22T09:59:59.999Z"));
        assert!(!earlier("2026-11-22T10:00:00.000Z"), "the message itself, or one beside it");
        assert!(!earlier("2026-11-22T12:00:00+01:00"));
        assert!(earlier(""), "a bridge without times gives them in order");
    }

    #[test]
    fn a_title_is_the_first_line_cut() {
        let of = |body: &str| {
            title(&Reply::parse(&json!({"threadId": "t", "body": body}).to_string()).unwrap())
        };
        assert_eq!(of("\n  Mend the build\nplease"), "Mend the build");
        assert_eq!(of(" \n"), "Bridge");
        assert_eq!(of(&"ä".repeat(100)).chars().count(), TITLE_CHARS);
        assert_eq!(of("a\u{1b}[2Jb"), "a[2Jb");
    }
}
