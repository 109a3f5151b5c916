//! What is said on threads.

use anyhow::Result;
use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    ids::{self, ClientMsgId, Engine, MachineId, MessageId, ThreadId},
    serve::store::{
        AccountKey, Sql, Store, Write, attachments, machines,
        rows::{
            AccountChange, MESSAGE_COLUMNS, Message, Role, ThreadChange, VIA_TOKEN, message_from,
            millis, one_line,
        },
        threads::{self, NewThread, SET_AGENT, ThreadRow},
    },
    time::{self, Timestamp},
};
/// Characters of a title that is made of a first message.
const TITLE_CHARS: usize = 80;
/// One answer holds at most about this much text; the reader asks again for more.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Draft {
    pub thread: ThreadId,
    pub author: String,
    pub role: Role,
    pub kind: Option<String>,
    pub body: String,
    /// A program says it, with a token: nobody has signed in for it.
    pub by_token: bool,
    pub client_msg_id: Option<ClientMsgId>,
    /// The agent that the human chose with this message.
    pub agent: Option<Engine>,
    /// The machine that a new thread is for.
    pub machine: Option<MachineId>,
    /// Where the agent of a new thread is to work.
    pub project_dir: Option<String>,
    /// The ids of pictures, in order.
    pub attachments: Vec<String>,
    pub question: Option<Question>,
    pub closing: Option<Closing>,
}

impl Draft {
    /// A message with nothing but a body.
    pub fn new(thread: ThreadId, role: Role, author: String, body: String) -> Draft {
        Draft {
            thread,
            author,
            role,
            kind: None,
            body,
            by_token: false,
            client_msg_id: None,
            agent: None,
            machine: None,
            project_dir: None,
            attachments: Vec::new(),
            question: None,
            closing: None,
        }
    }
}

/// A question in parts.
#[derive(Clone, Debug)]
pub struct Question {
    pub code: String,
    pub expires: Timestamp,
    /// All of it.
    pub card: Value,
}

#[derive(Clone, Debug, Serialize)]
pub struct Closing {
    pub code: String,
    pub outcome: String,
}

/// Why a message was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoThread,
    /// Not uploaded by this account, or used already.
    Attachment,
    /// Never seen on this account.
    Machine,
    /// No machine that the thread may be for offers it.
    ProjectDir,
    /// The thread has another machine.
    OtherMachine,
    /// The thread works elsewhere.
    OtherProjectDir,
}

/// Which messages of a thread are asked for; all answers are oldest first.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// The first ones that were said on it after this time. What was said elsewhere is left out,
    /// whatever its time: it was added later, and is nobody's task.
    Since(Timestamp),
    /// The last ones before this time.
    Before(Timestamp),
}

#[derive(Debug)]
pub struct MessagePage {
    pub messages: Vec<Message>,
    /// There are more in the same direction.
    pub more: bool,
}

/// Reads messages as [`message_from`] takes them; a condition follows.
fn select(rest: &str) -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages JOIN threads ON threads.id = messages.thread {rest}"
    )
}

impl Store {
    /// Stores a message and publishes it; a repeated `client_msg_id` gives the stored one and
    /// publishes nothing. A human's message makes its thread if need be, an agent's does not.
    pub fn post(&self, account: AccountKey, draft: Draft) -> Result<Result<Box<Message>, Refusal>> {
        self.write(|write| {
            if let Some(id) = &draft.client_msg_id
                && let Some(stored) = posted(write.tx, account, id)?
            {
                return Ok(Ok(Box::new(stored)));
            }
            let found = threads::find(write.tx, account, &draft.thread)?;
            // Nothing may be written before all is found good.
            if let Some(refusal) = refuse(write, account, found.as_ref(), &draft)? {
                return Ok(Err(refusal));
            }
            let row = match found {
                Some(row) => row,
                None => create_thread(write, account, &draft)?,
            };
            append(write, &row, &draft).map(Ok)
        })
    }

    /// None: there is no such thread. `bytes` bounds the text besides `ANSWER_BYTES`.
    pub fn messages(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        range: Range,
        limit: u32,
        bytes: usize,
    ) -> Result<Option<MessagePage>> {
        let conn = self.reader();
        let Some(ThreadRow { key, .. }) = threads::find(&conn, account, thread)? else {
            return Ok(None);
        };
        let (rest, time) = match range {
            Range::Since(time) => (
                "AND messages.created > ? AND messages.origin IS NULL
                 ORDER BY messages.created LIMIT ?",
                time,
            ),
            Range::Before(time) => {
                ("AND messages.created < ? ORDER BY messages.created DESC LIMIT ?", time)
            }
        };
        let mut query =
            conn.prepare_cached(&select(&format!("WHERE messages.thread = ? {rest}")))?;
        let mut rows = query.query(params![key, millis(time), limit + 1])?;
        let (mut messages, mut more) = (Vec::new(), false);
        let mut budget = bytes.min(ANSWER_BYTES);
        while let Some(row) = rows.next()? {
            if u32::try_from(messages.len()) == Ok(limit) || budget == 0 {
                more = true;
                break;
            }
            let message = message_from(row, 0)?;
            budget = budget.saturating_sub(message.body.len() + 1);
            messages.push(message);
        }
        if matches!(range, Range::Before(_)) {
            messages.reverse();
        }
        Ok(Some(MessagePage { messages, more }))
    }
}

/// The message that was stored under this id before.
fn posted(conn: &Connection, account: AccountKey, id: &ClientMsgId) -> Result<Option<Message>> {
    let sql = select(
        "JOIN client_msg_ids ON client_msg_ids.message = messages.id
         WHERE client_msg_ids.account = ? AND client_msg_id = ?",
    );
    conn.first(&sql, params![account.0, id.as_str()], |row| message_from(row, 0))
}

fn by_key(conn: &Connection, key: i64) -> Result<Message> {
    conn.one(&select("WHERE messages.id = ?"), [key], |row| message_from(row, 0))
}

fn refuse(
    write: &Write<'_>,
    account: AccountKey,
    found: Option<&ThreadRow>,
    draft: &Draft,
) -> Result<Option<Refusal>> {
    let machine = draft.machine.as_ref().map(MachineId::as_str);
    let refusal = match found {
        None if draft.role == Role::Agent => Some(Refusal::NoThread),
        None if threads::is_deleted(write.tx, account, &draft.thread)? => Some(Refusal::NoThread),
        None if machine.is_some() && !machines::is_known(write.tx, account, machine)? => {
            Some(Refusal::Machine)
        }
        None => match &draft.project_dir {
            Some(dir) if !machines::offers(write.tx, account, machine, dir)? => {
                Some(Refusal::ProjectDir)
            }
            _ => None,
        },
        Some(row) if draft.machine.is_some() && draft.machine != row.machine => {
            Some(Refusal::OtherMachine)
        }
        Some(row) if draft.project_dir.is_some() && draft.project_dir != row.project_dir => {
            Some(Refusal::OtherProjectDir)
        }
        Some(_) => None,
    };
    if refusal.is_some() {
        return Ok(refusal);
    }
    let free = attachments::are_free(write.tx, account, &draft.attachments)?;
    Ok((!free).then_some(Refusal::Attachment))
}

/// The thread of a first message. Its title is that message's first line.
fn create_thread(write: &mut Write<'_>, account: AccountKey, draft: &Draft) -> Result<ThreadRow> {
    let line = draft.body.lines().find(|it| !it.trim().is_empty()).unwrap_or_default();
    let new = NewThread {
        title: one_line(line, TITLE_CHARS),
        agent: draft.agent.as_ref().map(Engine::as_str),
        machine: draft.machine.as_ref().map(MachineId::as_str),
        project_dir: draft.project_dir.as_deref(),
        adoption: None,
    };
    threads::insert(write, account, &draft.thread, new)
}

fn append(write: &mut Write<'_>, row: &ThreadRow, draft: &Draft) -> Result<Box<Message>> {
    if let Some(agent) = &draft.agent {
        write.change_thread(row, ThreadChange::Agent, SET_AGENT, agent.as_str())?;
    }
    if let Some(closing) = &draft.closing {
        close_question(write, row, closing)?;
    }
    // Two messages of one millisecond, or a clock set back, must not share or swap their times.
    let created = millis(time::now()).max(row.last + 1);
    let key = insert(write, row, draft, created)?;
    write.changes.stored += 1;
    attachments::attach(write.tx, row.account, key, &draft.attachments)?;
    if let Some(id) = &draft.client_msg_id {
        write.tx.change(
            "INSERT INTO client_msg_ids VALUES (?, ?, ?)",
            params![row.account.0, id.as_str(), key],
        )?;
    }
    // Who writes has seen what came before.
    write.tx.change(
        "UPDATE threads SET last = ?1, read = iif(?2, ?1, read),
                                adoption = iif(?2, NULL, adoption) WHERE id = ?3",
        params![created, draft.role == Role::Human, row.key],
    )?;
    let message = Box::new(by_key(write.tx, key)?);
    let change = AccountChange::Message(message.clone());
    write.event(row, change, Some(key))?;
    Ok(message)
}

/// Adds the row alone and gives its key.
fn insert(write: &Write<'_>, row: &ThreadRow, draft: &Draft, created: i64) -> Result<i64> {
    let question = draft.question.as_ref();
    let adoption = row.adoption.as_ref().filter(|_| draft.role == Role::Human);
    let key = write.next_message();
    write.tx.change(
        "INSERT INTO messages (id, thread, message_id, author, role, kind, body, created,
                                   question, question_code, question_expires, question_closed,
                                   adoption, via)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            key,
            row.key,
            new_id(created).as_str(),
            draft.author,
            draft.role.as_str(),
            draft.kind,
            draft.body,
            created,
            question.map(|it| it.card.to_string()),
            question.map(|it| &it.code),
            question.map(|it| millis(it.expires)),
            draft.closing.as_ref().map(|it| json!(it).to_string()),
            adoption,
            draft.by_token.then_some(VIA_TOKEN),
        ],
    )?;
    Ok(key)
}

/// Ids sort as the times do.
pub(super) fn new_id(created: i64) -> MessageId {
    MessageId::new(format!("msg_{created:012x}{}", &ids::random_hex()[..12]))
}

/// Marks the newest question of this code that is still open, and tells of it again.
fn close_question(write: &mut Write<'_>, thread: &ThreadRow, closing: &Closing) -> Result<()> {
    let closed: Option<i64> = write.tx.value(
        "UPDATE messages SET closed = ?1 WHERE id =
                (SELECT id FROM messages WHERE thread = ?2 AND question_code = ?3
                 AND question IS NOT NULL AND closed IS NULL ORDER BY created DESC LIMIT 1)
             RETURNING id",
        params![closing.outcome, thread.key, closing.code],
    )?;
    let Some(key) = closed else { return Ok(()) };
    let change = AccountChange::Message(Box::new(by_key(write.tx, key)?));
    write.event(thread, change, Some(key))
}
