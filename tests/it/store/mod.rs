//! The store on a real disk, and on one in memory that fails from the n-th operation on.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod crash;
pub(crate) mod disk;
mod inbox_and_outbox;
mod journal;
mod seen_and_lock;
mod state;
mod takeover;

use obto_bridge::{
    bridge::wire::{Post, PostKind, Reply},
    ids::{ClientMsgId, MessageId, SessionId, ThreadId, TurnId},
    store::entry::Progress,
};

fn reply(message: &str) -> Reply {
    Reply {
        thread_id: ThreadId::new("thread"),
        message_id: Some(MessageId::new(message)),
        author: Some("ann".to_owned()),
        role: Some("human".to_owned()),
        body: format!("the body of {message}"),
        created_at: None,
        engine: None,
        machine: None,
        attachment_ids: Vec::new(),
        project_dir: None,
        is_by_token: false,
    }
}

fn progress(session: Option<&str>) -> Progress {
    Progress {
        turn: TurnId::new("turn"),
        engine: obto_bridge::ids::Engine::CODEX,
        session: session.map(SessionId::new),
        attempts: 1,
        asking: Vec::new(),
        answers: None,
        is_answered: false,
    }
}

fn post(name: &str) -> Post {
    Post::new(
        ThreadId::new("thread"),
        PostKind::Result,
        "claude-bridge".to_owned(),
        format!("the body of {name}"),
        ClientMsgId::new(name),
    )
}
