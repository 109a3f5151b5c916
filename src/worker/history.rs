//! What a prompt needs from the bridge: earlier messages and attachments. Either may fail without
//! costing the turn.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::{
    agent::Image,
    bridge::{Client, wire::Reply},
    ids::ThreadId,
    prompt::{self, Past},
    task,
    time::{self, Timestamp},
    worker::{
        asking::is_ours,
        run::{Run, Unstarted},
        texts,
    },
};

/// How many messages the history block is chosen from (protocol section 7).
const MESSAGES: u32 = 40;

/// Attachments of one message that are fetched.
const IMAGES: usize = 20;

/// A title longer than this is cut.
const TITLE_CHARS: usize = 60;

/// The newest messages of a thread, read while it is being claimed: two round trips at the same
/// time instead of one after the other. Closes without them when they can't be had.
pub type PrefetchedHistory = Receiver<Vec<Reply>>;

/// How long a turn waits for its history, over all tries.
const HISTORY: Duration = Duration::from_secs(30);

/// How long a turn waits for its attachments.
const ATTACHMENTS: Duration = Duration::from_mins(5);

/// Reads the newest messages of a thread that is not ours yet.
pub fn prefetch(client: &Client, thread: &ThreadId) -> Option<PrefetchedHistory> {
    ask(client, thread, Timestamp::MAX.to_string())
}

/// Reads on a task of its own, so that what waits for it can be stopped.
fn ask(client: &Client, thread: &ThreadId, before: String) -> Option<PrefetchedHistory> {
    let (client, thread) = (client.clone(), thread.clone());
    let (messages, asked) = bounded(1);
    let started = task::spawn("history", move || {
        match client.messages_before(&thread, &before, MESSAGES) {
            Ok(newest) => drop(messages.send(newest)), // The turn may be over by now.
            Err(error) => {
                log::warn!(threadId = thread.as_str(), error:% = error; "cannot read the history");
            }
        }
    });
    started.is_ok().then_some(asked)
}

/// The thread's earlier messages as a block of quotes. None if there are none, or if they can't be
/// had in time: a turn without history is better than none.
pub(super) fn block(run: &Run<'_>) -> Result<Option<String>, Unstarted> {
    let until = Instant::now() + HISTORY;
    let reply = &run.begin.reply;
    // What could not be had while the thread was claimed is not waited for a second time.
    let asked = run.job.prefetched.clone().or_else(|| {
        let before = reply.created_at.clone().unwrap_or_else(|| time::now().to_string());
        ask(&run.shared.client, &run.begin.thread, before)
    });
    let messages = match asked {
        Some(asked) => run.wait(&asked, until)?,
        None => None,
    };
    let Some(mut messages) = messages else {
        log::warn!(threadId = run.begin.thread.as_str(); "going on without history");
        return Ok(None);
    };
    let is_current =
        |message: &Reply| message.message_id.is_some() && message.message_id == reply.message_id;
    messages
        .retain(|message| is_earlier(message, reply) && !is_current(message) && !is_ours(message));
    let past: Vec<Past> = messages
        .into_iter()
        .map(|message| Past {
            created_at: message.created_at.clone().unwrap_or_default(),
            human: message.is_human(),
            author: message.author.unwrap_or_default(),
            body: message.body,
        })
        .collect();
    Ok(prompt::history(&past))
}

/// Whether a message was there before `reply` was written: what came later is not history.
fn is_earlier(message: &Reply, reply: &Reply) -> bool {
    let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
    match (time(&message.created_at), time(&reply.created_at)) {
        (Some(message), Some(reply)) => message < reply,
        _ => true,
    }
}

/// A short name for a fresh session: the beginning of the message's first line.
pub(super) fn title(reply: &Reply) -> String {
    let line = reply.body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("Bridge");
    line.chars().filter(|c| !c.is_control()).take(TITLE_CHARS).collect()
}

/// A message's attachments, as far as they can be had, and a note for the prompt on how many are
/// missing. They are fetched on a task of its own, so that what waits for it can be stopped.
pub(super) fn images(run: &Run<'_>) -> Result<(Vec<Image>, String), Unstarted> {
    let mut gathered = Vec::new();
    let ids = &run.begin.reply.attachment_ids;
    if ids.is_empty() {
        return Ok((gathered, String::new()));
    }
    let (images, fetched) = bounded(1);
    let (client, wanted) = (run.shared.client.clone(), ids[..IMAGES.min(ids.len())].to_vec());
    let started = task::spawn("attachments", move || {
        // An error means that the turn does not wait any more.
        wanted.iter().try_for_each(|id| images.send(image(&client, id))).ok();
    });
    let until = Instant::now() + ATTACHMENTS;
    if let Err(error) = started {
        log::warn!(error:% = error; "cannot start a task to fetch attachments");
    } else {
        while let Some(image) = run.wait(&fetched, until)? {
            gathered.extend(image);
        }
    }
    let note = match ids.len() - gathered.len() {
        0 => String::new(),
        missing => format!("\n\n{}", texts::attachments_left_out(missing)),
    };
    Ok((gathered, note))
}

fn image(client: &Client, id: &str) -> Option<Image> {
    match client.attachment(id) {
        Ok((media_type, bytes)) if media_type.starts_with("image/") => {
            Some(Image { media_type, bytes })
        }
        Ok((media_type, _)) => {
            log::warn!(attachment = id, media_type = media_type.as_str(); "attachment left out: no image");
            None
        }
        Err(error) => {
            log::warn!(attachment = id, error:% = error; "attachment left out");
            None
        }
    }
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
            is_earlier(&Reply::stored(value, &reply.thread_id).unwrap(), &reply)
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
