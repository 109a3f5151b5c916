//! Threads and what is said on them.

use anyhow::Result;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::{
    ids::{self, ClientMsgId, Engine, MachineId, MessageId, ThreadId},
    serve::store::{
        AccountKey, Store, Write,
        events::{Change, Keys, millis},
    },
    time::{self, Timestamp},
};

/// One answer holds at most about this much text; the reader asks again for more.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
const TITLE_CHARS: usize = 80;
const PREVIEW_CHARS: u32 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    fn parse(text: &str) -> Role {
        if text == "human" { Role::Human } else { Role::Agent }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub thread: ThreadId,
    pub id: MessageId,
    pub author: String,
    pub role: Role,
    pub kind: Option<String>,
    pub body: String,
    /// Strictly increasing within a thread.
    pub created: Timestamp,
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Draft {
    pub thread: ThreadId,
    pub author: String,
    pub role: Role,
    pub kind: Option<String>,
    pub body: String,
    pub client_msg_id: Option<ClientMsgId>,
    /// The agent that the human chose with this message.
    pub agent: Option<Engine>,
}

/// Which messages of a thread are asked for; all answers are oldest first.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// The first ones after this time.
    Since(Timestamp),
    /// The last ones before this time.
    Before(Timestamp),
}

#[derive(Debug)]
pub struct Page {
    pub messages: Vec<Message>,
    /// There are more in the same direction.
    pub more: bool,
}

#[derive(Debug)]
pub struct Thread {
    pub id: ThreadId,
    pub title: String,
    pub agent: Option<Engine>,
    pub machine: Option<MachineId>,
    pub created: Timestamp,
    /// Its body is cut.
    pub last_message: Message,
}

struct ThreadRow {
    key: i64,
    agent: Option<String>,
    machine: Option<String>,
    last: i64,
}

impl Store {
    /// Stores a message and publishes it; a repeated `client_msg_id` gives the stored one and
    /// publishes nothing. A human's message makes its thread if need be; None: an agent's does not.
    pub fn post(&self, account: AccountKey, draft: Draft) -> Result<Option<Message>> {
        self.write(|write| {
            if let Some(id) = &draft.client_msg_id
                && let Some(stored) = posted(&write.tx, account, id)?
            {
                return Ok(Some(stored));
            }
            let row = match (find_thread(&write.tx, account, &draft.thread)?, draft.role) {
                (Some(row), _) => row,
                (None, Role::Agent) => return Ok(None),
                (None, Role::Human) => create_thread(write, account, &draft)?,
            };
            append(write, account, row, draft).map(Some)
        })
    }

    /// Binds a thread to a machine unless it is bound already. Whether this call did it, and to
    /// whom it is bound now. None: there is no such thread.
    pub fn claim(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        machine: &MachineId,
    ) -> Result<Option<(bool, MachineId)>> {
        self.write(|write| {
            let won: Option<i64> = write
                .tx
                .prepare_cached(
                    "UPDATE threads SET machine = ?
                     WHERE account = ? AND thread_id = ? AND machine IS NULL RETURNING id",
                )?
                .query_row(params![machine.as_str(), account.0, thread.as_str()], |row| row.get(0))
                .optional()?;
            if let Some(key) = won {
                let (thread, machine) = (thread.clone(), machine.clone());
                let claimed = Change::Claimed { thread, machine: Some(machine.clone()) };
                write.event(account, claimed, Keys { thread: key, message: None })?;
                return Ok(Some((true, machine)));
            }
            let row = find_thread(&write.tx, account, thread)?;
            Ok(row.and_then(|row| row.machine).map(|winner| (false, MachineId::new(winner))))
        })
    }

    /// Switches a thread to another agent. False: there is no such thread.
    pub fn set_agent(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        agent: &Engine,
    ) -> Result<bool> {
        self.write(|write| match find_thread(&write.tx, account, thread)? {
            None => Ok(false),
            Some(row) => switch_agent(write, account, &row, thread, agent).map(|()| true),
        })
    }

    pub fn has_thread(&self, account: AccountKey, thread: &ThreadId) -> Result<bool> {
        let found = self
            .reader()
            .prepare_cached("SELECT 1 FROM threads WHERE account = ? AND thread_id = ?")?
            .exists(params![account.0, thread.as_str()])?;
        Ok(found)
    }

    /// None: there is no such thread.
    pub fn messages(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        range: Range,
        limit: u32,
    ) -> Result<Option<Page>> {
        if !self.has_thread(account, thread)? {
            return Ok(None);
        }
        let conn = self.reader();
        let (mut query, time) = match range {
            Range::Since(time) => (conn.prepare_cached(SINCE)?, time),
            Range::Before(time) => (conn.prepare_cached(BEFORE)?, time),
        };
        let mut rows = query.query(params![account.0, thread.as_str(), millis(time), limit + 1])?;
        let (mut messages, mut bytes, mut more) = (Vec::new(), 0, false);
        while let Some(row) = rows.next()? {
            if u32::try_from(messages.len()) == Ok(limit) || ANSWER_BYTES < bytes {
                more = true;
                break;
            }
            let message = message_from(row, 0)?;
            bytes += message.body.len();
            messages.push(message);
        }
        if matches!(range, Range::Before(_)) {
            messages.reverse();
        }
        Ok(Some(Page { messages, more }))
    }

    /// The threads with the newest messages, newest first.
    pub fn threads(&self, account: AccountKey, limit: u32) -> Result<Vec<Thread>> {
        let conn = self.reader();
        let mut query = conn.prepare_cached(
            "SELECT threads.title, threads.agent, threads.machine, threads.created,
                    threads.thread_id, messages.message_id, messages.author, messages.role,
                    messages.kind, substr(messages.body, 1, ?2), messages.created
             FROM threads
             JOIN messages ON messages.thread = threads.id AND messages.created = threads.last
             WHERE threads.account = ?1 ORDER BY threads.last DESC, threads.id DESC LIMIT ?3",
        )?;
        let rows = query.query_map(params![account.0, PREVIEW_CHARS, limit], |row| {
            let last_message = message_from(row, 4)?;
            Ok(Thread {
                id: last_message.thread.clone(),
                title: row.get(0)?,
                agent: row.get::<_, Option<String>>(1)?.map(|it| Engine::new(&it)),
                machine: row.get::<_, Option<String>>(2)?.map(MachineId::new),
                created: timestamp(row.get(3)?),
                last_message,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

const SINCE: &str =
    "SELECT threads.thread_id, message_id, author, role, kind, body, messages.created
     FROM messages JOIN threads ON threads.id = messages.thread
     WHERE threads.account = ? AND threads.thread_id = ? AND messages.created > ?
     ORDER BY messages.created LIMIT ?";
const BEFORE: &str =
    "SELECT threads.thread_id, message_id, author, role, kind, body, messages.created
     FROM messages JOIN threads ON threads.id = messages.thread
     WHERE threads.account = ? AND threads.thread_id = ? AND messages.created < ?
     ORDER BY messages.created DESC LIMIT ?";

/// Reads the seven columns of a message, the first of which is `at`.
pub(super) fn message_from(row: &Row<'_>, at: usize) -> rusqlite::Result<Message> {
    Ok(Message {
        thread: ThreadId::new(row.get::<_, String>(at)?),
        id: MessageId::new(row.get::<_, String>(at + 1)?),
        author: row.get(at + 2)?,
        role: Role::parse(&row.get::<_, String>(at + 3)?),
        kind: row.get(at + 4)?,
        body: row.get(at + 5)?,
        created: timestamp(row.get(at + 6)?),
    })
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// The message that was stored under this id before.
fn posted(tx: &Transaction<'_>, account: AccountKey, id: &ClientMsgId) -> Result<Option<Message>> {
    let stored = tx
        .prepare_cached(
            "SELECT threads.thread_id, message_id, author, role, kind, body, messages.created
             FROM client_msg_ids
             JOIN messages ON messages.id = client_msg_ids.message
             JOIN threads ON threads.id = messages.thread
             WHERE client_msg_ids.account = ? AND client_msg_id = ?",
        )?
        .query_row(params![account.0, id.as_str()], |row| message_from(row, 0))
        .optional()?;
    Ok(stored)
}

fn find_thread(
    tx: &Transaction<'_>,
    account: AccountKey,
    thread: &ThreadId,
) -> Result<Option<ThreadRow>> {
    let row = tx
        .prepare_cached(
            "SELECT id, agent, machine, last FROM threads WHERE account = ? AND thread_id = ?",
        )?
        .query_row(params![account.0, thread.as_str()], |row| {
            Ok(ThreadRow {
                key: row.get(0)?,
                agent: row.get(1)?,
                machine: row.get(2)?,
                last: row.get(3)?,
            })
        })
        .optional()?;
    Ok(row)
}

/// The thread of a first message. Its title is that message's first line.
fn create_thread(write: &mut Write<'_>, account: AccountKey, draft: &Draft) -> Result<ThreadRow> {
    let line = draft.body.lines().map(str::trim).find(|it| !it.is_empty()).unwrap_or_default();
    let title: String = line.chars().take(TITLE_CHARS).collect();
    let agent = draft.agent.as_ref().map(Engine::as_str);
    write.tx.execute(
        "INSERT INTO threads (account, thread_id, title, agent, created, last)
         VALUES (?, ?, ?, ?, ?, 0)",
        params![account.0, draft.thread.as_str(), title, agent, millis(time::now())],
    )?;
    let key = write.tx.last_insert_rowid();
    let made = Change::Thread { thread: draft.thread.clone(), agent: draft.agent.clone() };
    write.event(account, made, Keys { thread: key, message: None })?;
    Ok(ThreadRow { key, agent: agent.map(str::to_owned), machine: None, last: 0 })
}

fn switch_agent(
    write: &mut Write<'_>,
    account: AccountKey,
    row: &ThreadRow,
    thread: &ThreadId,
    agent: &Engine,
) -> Result<()> {
    if row.agent.as_deref() == Some(agent.as_str()) {
        return Ok(());
    }
    write
        .tx
        .execute("UPDATE threads SET agent = ? WHERE id = ?", params![agent.as_str(), row.key])?;
    let change = Change::Thread { thread: thread.clone(), agent: Some(agent.clone()) };
    write.event(account, change, Keys { thread: row.key, message: None })
}

fn append(
    write: &mut Write<'_>,
    account: AccountKey,
    row: ThreadRow,
    draft: Draft,
) -> Result<Message> {
    if let Some(agent) = &draft.agent {
        switch_agent(write, account, &row, &draft.thread, agent)?;
    }
    // Two messages of one millisecond, or a clock set back, must not share or swap their times.
    let created = millis(time::now()).max(row.last + 1);
    let message = Message {
        thread: draft.thread,
        id: MessageId::new(format!("msg_{created:012x}{}", &ids::random_hex()[..12])),
        author: draft.author,
        role: draft.role,
        kind: draft.kind,
        body: draft.body,
        created: timestamp(created),
    };
    write
        .tx
        .prepare_cached(
            "INSERT INTO messages (thread, message_id, author, role, kind, body, created)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            row.key,
            message.id.as_str(),
            message.author,
            message.role.as_str(),
            message.kind,
            message.body,
            created
        ])?;
    let key = write.tx.last_insert_rowid();
    if let Some(id) = &draft.client_msg_id {
        write
            .tx
            .prepare_cached("INSERT INTO client_msg_ids VALUES (?, ?, ?)")?
            .execute(params![account.0, id.as_str(), key])?;
    }
    write
        .tx
        .prepare_cached("UPDATE threads SET last = ? WHERE id = ?")?
        .execute(params![created, row.key])?;
    let change = Change::Message {
        message: Box::new(message.clone()),
        agent: draft.agent.or(row.agent.map(|it| Engine::new(&it))),
        machine: row.machine.map(MachineId::new),
    };
    write.event(account, change, Keys { thread: row.key, message: Some(key) })?;
    Ok(message)
}
