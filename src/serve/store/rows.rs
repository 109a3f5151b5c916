//! What the tables hold, and how rows are read: what the other files of the store have in common.

use anyhow::Result;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ascii,
    ids::{Engine, MachineId, MessageId, ThreadId},
    serve::store::{AccountKey, Sql},
    time::Timestamp,
};

/// Characters of a preview; more are read, because runs of blanks become one.
const PREVIEW_CHARS: usize = 200;
const LOOKED_AT_CHARS: usize = 1000;

/// Times in the tables; past the year 292 million they stand still.
pub(super) fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A time in the tables.
pub(super) fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// A column of JSON that we wrote.
pub(super) fn json<T: for<'a> Deserialize<'a>>(
    row: &Row<'_>,
    at: usize,
) -> rusqlite::Result<Option<T>> {
    let Some(text) = row.get_ref(at)?.as_str_or_null()? else { return Ok(None) };
    let parsed = serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(Some(parsed))
}

/// The random number of a database file. It is a part of every event's id, so that the ids of a
/// file that is no longer there are not taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(pub(super) i64);

impl Epoch {
    /// The id of an event on the stream.
    pub fn id(self, seq: i64) -> String {
        format!("{:016x}-{seq}", self.0)
    }

    /// The number of an event of ours. None: the id is foreign, or none.
    pub(super) fn seq(self, id: &str) -> Option<i64> {
        let (epoch, seq) = id.split_once('-')?;
        (epoch == format!("{:016x}", self.0)).then(|| ascii::number(seq))?
    }
}

/// One event of an account; `seq` grows.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountEvent {
    pub epoch: Epoch,
    pub seq: i64,
    pub account: AccountKey,
    pub change: AccountChange,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AccountChange {
    /// A human's message is for daemons, an agent's for browsers. Told again when the question that
    /// it puts has ended. On replay, as it is now.
    Message(Box<Message>),
    /// A machine has bound the thread. On replay, as it is now.
    Claimed { thread: ThreadId, machine: Option<MachineId> },
    /// On replay, as it is now.
    Thread { change: ThreadChange, thread: Box<Thread> },
}

/// What happened to a thread as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadChange {
    Created,
    Renamed,
    Deleted,
    Agent,
    /// The mark up to which it was read has moved.
    Read,
    /// Messages were added to its beginning.
    History,
}

impl ThreadChange {
    /// In the table and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ThreadChange::Created => "created",
            ThreadChange::Renamed => "renamed",
            ThreadChange::Deleted => "deleted",
            ThreadChange::Agent => "agent",
            ThreadChange::Read => "read",
            ThreadChange::History => "history",
        }
    }

    pub(super) fn parse(text: &str) -> Option<ThreadChange> {
        use ThreadChange::{Agent, Created, Deleted, History, Read, Renamed};
        let all = [Created, Renamed, Deleted, Agent, Read, History];
        all.into_iter().find(|it| it.as_str() == text)
    }
}

impl AccountEvent {
    /// Its id on the stream.
    pub fn id(&self) -> String {
        self.epoch.id(self.seq)
    }
}

impl AccountChange {
    /// Whether daemons are told; browsers are told everything.
    pub fn is_for_daemons(&self) -> bool {
        matches!(self, AccountChange::Message(message) if message.role == Role::Human)
    }

    /// The name of the event in the table.
    pub(in crate::serve) fn kind(&self) -> &'static str {
        match self {
            AccountChange::Message(_) if self.is_for_daemons() => "reply",
            AccountChange::Message(_) => "message",
            AccountChange::Claimed { .. } => "claimed",
            AccountChange::Thread { change, .. } => change.as_str(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Human,
    Agent,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Human => "human",
            Role::Agent => "agent",
        }
    }

    pub(super) fn parse(text: &str) -> Role {
        if text == "human" { Role::Human } else { Role::Agent }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub thread: ThreadId,
    pub id: MessageId,
    pub author: String,
    pub role: Role,
    pub kind: Option<String>,
    pub body: String,
    /// A program said it, with a token: nobody had signed in for it.
    pub by_token: bool,
    /// Strictly increasing within a thread.
    pub created: Timestamp,
    /// The question that it puts, as `Question::card`.
    pub question: Option<Value>,
    /// How that question ended.
    pub closed: Option<String>,
    /// The end of a question that it tells of, a `Closing`.
    pub question_closed: Option<Value>,
    /// The session that its thread goes on with; on the first reply of an adopted thread.
    pub adoption: Option<Value>,
    /// It was said elsewhere, before the thread was made of that session: nobody is to act on it.
    pub is_history: bool,
    pub files: Vec<File>,
    /// Of the thread, as it is now.
    pub agent: Option<Engine>,
    /// Of the thread, as it is now.
    pub machine: Option<MachineId>,
    /// Of the thread.
    pub project_dir: Option<String>,
}

/// A picture that belongs to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    pub id: String,
    pub name: String,
    pub media_type: String,
    pub bytes: u64,
    pub width: Option<u32>,
    pub height: Option<u32>,
}

/// How a message came, in the table and on the wire, if no person brought it.
pub(in crate::serve) const VIA_TOKEN: &str = "token";

/// The columns of a [`Message`], in the order in which [`message_from`] reads them.
pub(super) const MESSAGE_COLUMNS: &str =
    "threads.thread_id, messages.message_id, messages.author, messages.role, messages.kind,
     messages.body, messages.created, messages.question, messages.closed,
     messages.question_closed, messages.adoption, messages.origin IS NOT NULL,
     threads.agent, threads.machine, threads.project_dir, messages.via,
     (SELECT json_group_array(json_object('id', attachment_id, 'name', name,
             'mediaType', media_type, 'bytes', bytes, 'width', width, 'height', height)
             ORDER BY position)
      FROM attachments WHERE attachments.message = messages.id)";

/// Reads the columns of a message, the first of which is `at`.
pub(super) fn message_from(row: &Row<'_>, at: usize) -> rusqlite::Result<Message> {
    Ok(Message {
        thread: ThreadId::new(row.get::<_, String>(at)?),
        id: MessageId::new(row.get::<_, String>(at + 1)?),
        author: row.get(at + 2)?,
        role: Role::parse(&row.get::<_, String>(at + 3)?),
        kind: row.get(at + 4)?,
        body: row.get(at + 5)?,
        created: timestamp(row.get(at + 6)?),
        question: json(row, at + 7)?,
        closed: row.get(at + 8)?,
        question_closed: json(row, at + 9)?,
        adoption: json(row, at + 10)?,
        is_history: row.get(at + 11)?,
        agent: row.get::<_, Option<String>>(at + 12)?.map(|it| Engine::new(&it)),
        machine: row.get::<_, Option<String>>(at + 13)?.map(MachineId::new),
        project_dir: row.get(at + 14)?,
        by_token: row.get_ref(at + 15)?.as_str_or_null()? == Some(VIA_TOKEN),
        files: json(row, at + 16)?.unwrap_or_default(),
    })
}

/// A thread as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    #[serde(rename = "threadId")]
    pub id: ThreadId,
    pub title: String,
    pub agent: Option<Engine>,
    #[serde(rename = "agentId")]
    pub machine: Option<MachineId>,
    pub project_dir: Option<String>,
    #[serde(rename = "createdAt")]
    pub created: Timestamp,
    /// Of its newest message; of itself if it has none.
    pub last_at: Timestamp,
    pub last: Option<Last>,
    /// Messages of agents that were not marked as read; counted up to 1,000.
    pub unread: u32,
    /// Questions that wait for an answer now.
    pub open_questions: u32,
}

/// The newest message of a thread, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Last {
    pub author: String,
    pub role: Role,
    pub kind: Option<String>,
    /// One line.
    pub preview: String,
}

/// Reads threads as [`thread_from`] takes them.
pub(super) const SELECT_THREADS: &str =
    "SELECT threads.id, threads.thread_id, threads.title, threads.agent, threads.machine,
            threads.project_dir, threads.created, threads.last,
            newest.author, newest.role, newest.kind, newest.body,
            (SELECT count(*) FROM (SELECT 1 FROM messages WHERE messages.thread = threads.id
                AND messages.created > threads.read AND messages.role = 'agent' LIMIT 1000)),
            (SELECT count(*) FROM messages WHERE messages.thread = threads.id
                AND question IS NOT NULL AND closed IS NULL
                AND question_expires > unixepoch('now', 'subsec') * 1000)
     FROM threads LEFT JOIN messages AS newest ON newest.id =
        (SELECT id FROM messages WHERE thread = threads.id ORDER BY created DESC LIMIT 1)";

pub(super) fn thread_by_key(conn: &Connection, key: i64) -> Result<Thread> {
    conn.one(&format!("{SELECT_THREADS} WHERE threads.id = ?"), [key], thread_from)
}

pub(super) fn thread_from(row: &Row<'_>) -> rusqlite::Result<Thread> {
    let last = match row.get::<_, Option<String>>(8)? {
        None => None,
        Some(author) => Some(Last {
            author,
            role: Role::parse(&row.get::<_, String>(9)?),
            kind: row.get(10)?,
            preview: one_line(row.get_ref(11)?.as_str()?, PREVIEW_CHARS),
        }),
    };
    Ok(Thread {
        id: ThreadId::new(row.get::<_, String>(1)?),
        title: row.get(2)?,
        agent: row.get::<_, Option<String>>(3)?.map(|it| Engine::new(&it)),
        machine: row.get::<_, Option<String>>(4)?.map(MachineId::new),
        project_dir: row.get(5)?,
        created: timestamp(row.get(6)?),
        last_at: timestamp(row.get(7)?),
        last,
        unread: row.get(12)?,
        open_questions: row.get(13)?,
    })
}

/// The text with every run of blanks, line breaks and control characters as one blank.
pub(super) fn one_line(text: &str, chars: usize) -> String {
    let end = text.char_indices().nth(LOOKED_AT_CHARS).map_or(text.len(), |(at, _)| at);
    let text = &text[..end];
    let is_gap = |c: char| c.is_whitespace() || c.is_control();
    let words = text.split(is_gap).filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" ");
    words.chars().take(chars).collect()
}
