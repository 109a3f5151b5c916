//! The store on a real disk, and on one in memory that fails from the n-th operation on.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod crash;
pub(crate) mod disk;
mod seen_and_lock;
mod spool;
mod state;

use obto_bridge::{
    bridge::wire::{Post, PostKind, Reply, Role},
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
        external_adoption: None,
    }
}

fn progress(session: Option<&str>) -> Progress {
    Progress {
        turn: TurnId::new("turn"),
        engine: obto_bridge::ids::Engine::CODEX,
        session: session.map(SessionId::new),
        attempts: 1,
        is_answered: false,
    }
}

fn post(name: &str) -> Post {
    Post {
        thread_id: ThreadId::new("thread"),
        body: format!("the body of {name}"),
        kind: PostKind::Result,
        author: "claude-bridge".to_owned(),
        role: Role::Agent,
        client_msg_id: ClientMsgId::new(name),
    }
}
