//! Messages that no daemon has begun to answer, for a daemon that connects without a position in
//! the stream (protocol section 3): before its machine's first connection, or after its state was
//! lost, only the bridge knows of them.

use anyhow::Result;
use rusqlite::{Connection, params};

use crate::{
    ids::MachineId,
    serve::store::{
        AccountKey, Sql, Store,
        rows::{MESSAGE_COLUMNS, Message, message_from, millis},
    },
    time::Timestamp,
};

/// Threads that are looked at before other readers get their turn.
const BATCH_THREADS: u32 = 64;
/// A page of messages ends at whichever it reaches first.
const PAGE_MESSAGES: usize = 64;
const PAGE_BYTES: usize = 1024 * 1024;

/// Whose messages are looked for.
#[derive(Debug)]
pub struct Scope {
    pub account: AccountKey,
    pub machine: MachineId,
    /// Only messages that were written then or later.
    pub since: Option<Timestamp>,
    /// Up to this row; what comes later is live.
    pub head: i64,
}

/// A thread on which messages wait.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitingThread {
    thread: i64,
    /// The next page begins after this time.
    after: i64,
    /// When the first of them was written.
    oldest: i64,
    pub count: usize,
}

/// The human's messages of a thread that no post names. A daemon of ours names its posts by the
/// message that they answer (`{messageId}.{attempt}.{number}`).
fn select_unnamed(columns: &str) -> String {
    format!(
        "SELECT messages.created, {columns}
         FROM messages JOIN threads ON threads.id = messages.thread
         WHERE messages.thread = ?1 AND messages.created > ?2 AND messages.id <= ?3
           AND messages.role = 'human' AND messages.origin IS NULL
           AND threads.deleted IS NULL
           AND NOT EXISTS (SELECT 1 FROM client_msg_ids AS named
               WHERE named.account = threads.account
                 AND named.client_msg_id > messages.message_id || '.'
                 AND named.client_msg_id < messages.message_id || '/'
                 AND named.client_msg_id GLOB '*.[0-9]*.[0-9]*')
         ORDER BY messages.created"
    )
}

impl Store {
    /// The threads on which messages wait for this machine, the one with the oldest message first.
    pub fn waiting(&self, scope: &Scope) -> Result<Vec<WaitingThread>> {
        let (mut found, mut last) = (Vec::new(), 0);
        loop {
            let conn = self.reader();
            let threads: Vec<i64> = conn.all(
                "SELECT id FROM threads WHERE account = ? AND id > ? AND deleted IS NULL
                       AND (machine IS NULL OR machine = ?) ORDER BY id LIMIT ?",
                params![scope.account.0, last, scope.machine.as_str(), BATCH_THREADS],
                |row| row.get(0),
            )?;
            let Some(end) = threads.last() else { break };
            last = *end;
            for thread in threads {
                found.extend(waiting_on(&conn, thread, scope)?);
            }
        }
        found.sort_by_key(|it: &WaitingThread| it.oldest);
        Ok(found)
    }

    /// The next messages that wait on a thread, oldest first; none when there are no more.
    pub fn next_waiting(&self, scope: &Scope, waiting: &mut WaitingThread) -> Result<Vec<Message>> {
        let conn = self.reader();
        let mut query = conn.prepare_cached(&select_unnamed(MESSAGE_COLUMNS))?;
        let mut rows = query.query(params![waiting.thread, waiting.after, scope.head])?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < PAGE_MESSAGES
            && bytes < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            waiting.after = row.get(0)?;
            let message = message_from(row, 1)?;
            if !is_word(&conn, waiting.thread, waiting.after, &message.body)? {
                bytes += message.body.len();
                page.push(message);
            }
        }
        Ok(page)
    }
}

fn waiting_on(conn: &Connection, thread: i64, scope: &Scope) -> Result<Option<WaitingThread>> {
    let answered = answered_until(conn, thread)?.unwrap_or_default();
    let after = answered.max(scope.since.map_or(0, |since| millis(since) - 1));
    let mut waiting = WaitingThread { thread, after, oldest: 0, count: 0 };
    // A word is at the beginning; the rest may be long.
    let mut query = conn.prepare_cached(&select_unnamed("substr(messages.body, 1, 200)"))?;
    let mut rows = query.query(params![thread, after, scope.head])?;
    while let Some(row) = rows.next()? {
        let (created, body) = (row.get(0)?, row.get_ref(1)?.as_str()?);
        if is_stop(body) {
            // It concerns everything before it.
            waiting = WaitingThread { thread, after: created, oldest: 0, count: 0 };
        } else if !is_word(conn, thread, created, body)? {
            if waiting.count == 0 {
                waiting.oldest = created;
            }
            waiting.count += 1;
        }
    }
    Ok((0 < waiting.count).then_some(waiting))
}

/// An answer that names no message, as other daemons give it, answers all that was written before.
fn answered_until(conn: &Connection, thread: i64) -> Result<Option<i64>> {
    conn.value(
        "SELECT created FROM messages
             WHERE thread = ? AND role = 'agent' AND kind IN ('result', 'error', 'question')
               AND origin IS NULL
               AND NOT EXISTS (SELECT 1 FROM client_msg_ids WHERE message = messages.id
                   AND client_msg_id GLOB 'msg_*.[0-9]*.[0-9]*')
             ORDER BY created DESC LIMIT 1",
        [thread],
    )
}

/// Whether a message is for the daemon that was there when it was written, and no prompt.
fn is_word(conn: &Connection, thread: i64, created: i64, body: &str) -> Result<bool> {
    Ok(is_control(body) || is_answer(conn, thread, created, body)?)
}

fn is_stop(body: &str) -> bool {
    let words: Vec<_> = body.split_whitespace().take(3).collect();
    ["/stop", "/stop all"].iter().any(|it| words.join(" ").eq_ignore_ascii_case(it))
}

fn is_control(body: &str) -> bool {
    let words = ["/status", "/queue", "/new", "/help", "/show"];
    let is_show = |body: &str| {
        let mut words = body.split_whitespace();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("/show"))
            && words.next().is_some()
            && words.next().is_none()
    };
    is_stop(body)
        || is_show(body)
        || words.iter().any(|word| body.trim().eq_ignore_ascii_case(word))
}

/// Whether a message answered an approval prompt: it names the prompt's code; or it is a bare
/// answer, and the prompt was open then or had been put since the human's message before.
fn is_answer(conn: &Connection, thread: i64, created: i64, body: &str) -> Result<bool> {
    const VERBS: [&str; 6] = ["approve", "yes", "allow", "always", "deny", "no"];
    let punctuation = [',', ':', ';', '.', '!'];
    let mut words = body.split_whitespace().map(|it| it.trim_end_matches(punctuation));
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let is_verb = VERBS.iter().any(|verb| first.eq_ignore_ascii_case(verb));
    let is_numbers = !first.is_empty()
        && body.chars().all(|it| it.is_ascii_digit() || it.is_whitespace() || it == ',');
    let is_bare =
        is_numbers || is_verb && second.is_none_or(|second| second.eq_ignore_ascii_case("because"));
    let code = if is_verb { second.unwrap_or_default() } else { first };
    conn.has(
        "SELECT 1 FROM messages AS prompt
             WHERE thread = ?1 AND created < ?2 AND question IS NOT NULL
               AND (question_code = ?3 COLLATE NOCASE OR ?4 AND (
                   created > ifnull((SELECT max(created) FROM messages AS before
                       WHERE before.thread = ?1 AND before.created < ?2
                         AND before.role = 'human'), 0)
                   OR question_expires > ?2 AND NOT EXISTS (SELECT 1 FROM messages AS closing
                       WHERE closing.thread = ?1 AND closing.created > prompt.created
                         AND closing.created < ?2
                         AND closing.question_closed ->> 'code' = prompt.question_code)))",
        params![thread, created, code, is_bare],
    )
}
