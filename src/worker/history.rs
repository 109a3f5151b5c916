//! What a prompt needs from the bridge: earlier messages and attachments. Either may fail without
//! costing the turn.

use crate::{
    agent::Image,
    bridge::{
        Attachment,
        wire::{Message, Reply},
    },
    ids::ThreadId,
    prompt::{self, Past},
    time,
    worker::{Shared, words},
};

/// How many messages the history block is chosen from (protocol section 7).
const MESSAGES: u32 = 40;

/// Attachments of one message that are fetched.
const IMAGES: usize = 20;

/// A title longer than this is cut.
const TITLE_CHARS: usize = 60;

/// The thread's earlier messages as a block of quotes. None if there are none, or if they can't be
/// had: a turn without history is better than none.
pub(super) fn block(shared: &Shared, thread: &ThreadId, reply: &Reply) -> Option<String> {
    let before = reply.created_at.clone().unwrap_or_else(|| time::now().to_string());
    let messages = shared
        .client
        .messages_before(thread, &before, MESSAGES)
        .inspect_err(|error| {
            log::warn!(threadId = thread.as_str(), error:% = error; "going on without history");
        })
        .ok()?;
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
