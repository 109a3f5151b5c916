//! Sessions that were started on machines, outside the bridge (protocol section 10): what machines
//! report of them, and how one becomes a thread.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    ids::{self, Engine, MachineId, SessionId, ThreadId},
    serve::store::{
        AccountKey, Caller, Sql, Store, Write, messages,
        rows::{self, Role, ThreadChange, millis, one_line, timestamp},
        threads::{self, NewThread, ThreadRow},
    },
    time::Timestamp,
};

/// Sessions that are kept of one machine; those that were used last, and all that became threads.
const SESSIONS_MAX: u32 = 2000;
/// Sessions that are listed.
const LISTED_MAX: u32 = 500;
const TITLE_CHARS: usize = 80;
/// Turns that a machine's report already has, marked so that the whole history takes their place.
const PARTIAL: &str = "partial";
/// Nothing was said before this time, in milliseconds since 1970; below it is room to sort by.
const FIRST: i64 = 1_000_000;

/// A session as its machine reports it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalSession {
    /// The agent that it is of.
    pub source: String,
    #[serde(rename = "sessionId")]
    pub id: SessionId,
    pub project_dir: Option<String>,
    pub project_name: Option<String>,
    pub title: String,
    /// None: not known.
    #[serde(rename = "lastActivityAt")]
    pub last_activity: Option<Timestamp>,
    #[serde(rename = "lastMessagePreview")]
    pub preview: Option<String>,
    #[serde(rename = "lastMessageAuthor")]
    pub preview_author: Option<String>,
    /// The newest turns, oldest first.
    #[serde(skip)]
    pub recent: Vec<SessionTurn>,
}

/// Something that was said in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionTurn {
    pub is_human: bool,
    pub body: String,
    /// None: not known.
    pub time: Option<Timestamp>,
}

/// A session as it is listed.
#[derive(Debug, Serialize)]
pub struct Listed {
    #[serde(skip)]
    key: i64,
    #[serde(rename = "agentId")]
    pub machine: MachineId,
    #[serde(flatten)]
    pub session: ExternalSession,
    /// The machine has it no longer.
    pub vanished: bool,
    /// The thread that goes on with it.
    #[serde(rename = "threadId")]
    pub thread: Option<ThreadId>,
}

/// What a report has changed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Synced {
    pub count: usize,
    pub vanished: usize,
    pub restored: usize,
}

/// What a history has changed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backfilled {
    pub inserted: usize,
    pub deduped: usize,
    pub removed_partial: usize,
}

/// Why a history was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackfill {
    NoThread,
    /// The token is not that of the machine that has the thread.
    OtherMachine,
    /// The thread goes on with no session, or another one.
    OtherSession,
}

const COLUMNS: &str = "SELECT external_sessions.id, external_sessions.machine, source, session_id,
        external_sessions.project_dir, project_name, external_sessions.title, last_activity,
        preview, preview_author, recent, vanished, threads.thread_id
    FROM external_sessions LEFT JOIN threads ON threads.id = external_sessions.thread
    WHERE external_sessions.account = ?1 ";

impl Store {
    /// Takes a machine's report. With an empty `present` nothing is known of the other sessions.
    pub fn sync_sessions(
        &self,
        account: AccountKey,
        machine: &MachineId,
        sessions: &[ExternalSession],
        present: &[String],
    ) -> Result<Synced> {
        self.write(|write| {
            let before = vanished(write.tx, account, machine)?;
            for session in sessions {
                upsert(write.tx, account, machine, session)?;
            }
            if !present.is_empty() {
                // What was just reported is there.
                let reported = sessions.iter().map(|it| it.id.as_str());
                let there: Vec<_> = present.iter().map(String::as_str).chain(reported).collect();
                write.tx.change(
                    "WITH present AS MATERIALIZED (SELECT value FROM json_each(?3))
                     UPDATE external_sessions SET vanished = session_id NOT IN present
                     WHERE account = ?1 AND machine = ?2
                         AND vanished <> (session_id NOT IN present)",
                    params![account.0, machine.as_str(), serde_json::to_string(&there)?],
                )?;
            }
            let after = vanished(write.tx, account, machine)?;
            write.tx.execute(
                "DELETE FROM external_sessions WHERE id IN (SELECT id FROM external_sessions
                 WHERE account = ? AND machine = ? AND thread IS NULL
                 ORDER BY vanished, last_activity DESC, id LIMIT -1 OFFSET ?)",
                params![account.0, machine.as_str(), SESSIONS_MAX],
            )?;
            Ok(Synced {
                count: sessions.len(),
                vanished: after.difference(&before).count(),
                restored: before.difference(&after).count(),
            })
        })
    }

    /// The sessions of all machines, those that are there first, then those that were used last.
    pub fn sessions(&self, account: AccountKey) -> Result<Vec<Listed>> {
        self.reader().all(
            &format!("{COLUMNS} ORDER BY vanished, last_activity DESC LIMIT ?2"),
            params![account.0, LISTED_MAX],
            listed_from,
        )
    }

    pub fn external_session(
        &self,
        account: AccountKey,
        machine: &MachineId,
        source: &str,
        id: &SessionId,
    ) -> Result<Option<Listed>> {
        find(&self.reader(), account, machine, source, id)
    }

    /// Makes a thread of a session, or gives the one that was made of it. It has the newest turns
    /// until its machine sends all. `author` is the human's name. None: the session is gone.
    pub fn adopt(
        &self,
        account: AccountKey,
        known: &Listed,
        author: &str,
    ) -> Result<Option<ThreadId>> {
        let Listed { machine, session: ExternalSession { source, id, .. }, .. } = known;
        self.write(|write| {
            let Some(listed) = find(write.tx, account, machine, source, id)? else {
                return Ok(None);
            };
            if let Some(thread) = listed.thread {
                return Ok(Some(thread));
            }
            let session = listed.session;
            let thread = ThreadId::new(format!("thread_{}", ids::random_hex()));
            let engine = Engine::new(source);
            let adoption = json!({
                "sessionId": session.id,
                "projectDir": session.project_dir,
                "projectName": session.project_name,
                "source": session.source,
            });
            let new = NewThread {
                title: one_line(&session.title, TITLE_CHARS),
                agent: Some(engine.as_str()),
                machine: Some(machine.as_str()),
                project_dir: None,
                adoption: Some(adoption.to_string()),
            };
            let row = threads::insert(write, account, &thread, new)?;
            write.tx.execute(
                "UPDATE external_sessions SET thread = ? WHERE id = ?",
                params![row.key, listed.key],
            )?;
            let origins = (0..).map(|n| format!("{PARTIAL} {n}"));
            let turns = session.recent.iter().zip(origins).collect();
            let names = Names { human: author, agent: &engine.author() };
            add_turns(write, &row, turns, &names)?;
            write.thread_event(&row, ThreadChange::History)?;
            Ok(Some(thread))
        })
    }

    /// Puts a session's history before what was said on the thread. What is there already stays.
    /// `connected` tells whether a machine is here with the caller's token.
    pub fn backfill(
        &self,
        caller: Caller,
        thread: &ThreadId,
        session: &SessionId,
        turns: &[SessionTurn],
        connected: impl Fn(&MachineId) -> bool,
    ) -> Result<Result<Backfilled, NoBackfill>> {
        let account = caller.account;
        let author = self.account(caller)?.username;
        self.write(|write| {
            let Some(row) = threads::find(write.tx, account, thread)? else {
                return Ok(Err(NoBackfill::NoThread));
            };
            let owns = match &row.machine {
                None => false,
                Some(machine) => connected(machine) || has_token_of(write.tx, caller, machine)?,
            };
            if !owns {
                return Ok(Err(NoBackfill::OtherMachine));
            }
            let source: Option<String> = write.tx.value(
                "SELECT source FROM external_sessions WHERE thread = ? AND session_id = ?",
                params![row.key, session.as_str()],
            )?;
            let Some(source) = source else { return Ok(Err(NoBackfill::OtherSession)) };
            let removed_partial = write.tx.execute(
                "DELETE FROM messages WHERE thread = ? AND origin GLOB ?",
                params![row.key, format!("{PARTIAL} *")],
            )?;
            let names = Names { human: &author, agent: &Engine::new(&source).author() };
            let with_origins = turns.iter().zip(origins(turns)).collect();
            let inserted = add_turns(write, &row, with_origins, &names)?;
            if 0 < inserted + removed_partial {
                write.thread_event(&row, ThreadChange::History)?;
            }
            Ok(Ok(Backfilled { inserted, deduped: turns.len() - inserted, removed_partial }))
        })
    }
}

struct Names<'a> {
    human: &'a str,
    agent: &'a str,
}

/// A name for each turn, the same whenever it is sent: of who said what when, and, if that was said
/// before, how often.
fn origins(turns: &[SessionTurn]) -> Vec<String> {
    let mut times: HashMap<[u8; 32], usize> = HashMap::new();
    turns
        .iter()
        .map(|turn| {
            let mut hash = Sha256::new();
            hash.update([u8::from(turn.is_human)]);
            hash.update(turn.time.map_or(-1, millis).to_be_bytes());
            hash.update(turn.body.as_bytes());
            let hash: [u8; 32] = hash.finalize().into();
            let count = times.entry(hash).or_default();
            *count += 1;
            format!("{} {count}", ids::hex(&hash))
        })
        .collect()
}

/// Stores those turns that are not stored under their origin yet, with times that keep their order
/// and come before all that was said on the thread itself. No event is made of them: daemons must
/// not act on them. How many it stored.
fn add_turns(
    write: &Write<'_>,
    row: &ThreadRow,
    turns: Vec<(&SessionTurn, String)>,
    names: &Names<'_>,
) -> Result<usize> {
    let stored: HashMap<String, i64> = write.tx.all(
        "SELECT origin, created FROM messages WHERE thread = ? AND origin IS NOT NULL",
        [row.key],
        |row| row.try_into(),
    )?;
    let taken: HashSet<i64> = stored.values().copied().collect();
    let (mut next, mut added) = (row.created, 0);
    let mut query = write.tx.prepare_cached(
        "INSERT INTO messages (id, thread, message_id, author, role, kind, body, created, origin)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (turn, origin) in turns.into_iter().rev() {
        if let Some(created) = stored.get(&origin) {
            next = next.min(*created);
            continue;
        }
        let time = turn.time.map_or(i64::MAX, millis);
        next = time.max(FIRST).min(next - 1);
        while taken.contains(&next) {
            next -= 1;
        }
        let (role, author, kind) = if turn.is_human {
            (Role::Human, names.human, None)
        } else {
            (Role::Agent, names.agent, Some("result"))
        };
        query.execute(params![
            write.next_message(),
            row.key,
            messages::new_id(next).as_str(),
            author,
            role.as_str(),
            kind,
            turn.body,
            next,
            origin
        ])?;
        added += 1;
    }
    Ok(added)
}

fn has_token_of(conn: &Connection, caller: Caller, machine: &MachineId) -> Result<bool> {
    let Some(token) = caller.token() else { return Ok(false) };
    conn.has(
        "SELECT 1 FROM tokens WHERE id = ? AND machine = ?",
        params![token.0, machine.as_str()],
    )
}

fn upsert(
    conn: &Connection,
    account: AccountKey,
    machine: &MachineId,
    session: &ExternalSession,
) -> Result<()> {
    conn.change(
        "INSERT INTO external_sessions (account, machine, source, session_id, project_dir,
            project_name, title, last_activity, preview, preview_author, recent)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (account, machine, source, session_id) DO UPDATE SET
            project_dir = excluded.project_dir, project_name = excluded.project_name,
            title = excluded.title, last_activity = excluded.last_activity,
            preview = excluded.preview, preview_author = excluded.preview_author,
            recent = excluded.recent, vanished = 0",
        params![
            account.0,
            machine.as_str(),
            session.source,
            session.id.as_str(),
            session.project_dir,
            session.project_name,
            session.title,
            session.last_activity.map_or(0, millis),
            session.preview,
            session.preview_author,
            serde_json::to_string(&session.recent)?,
        ],
    )?;
    Ok(())
}

/// The rows of a machine's sessions that it no longer has.
fn vanished(conn: &Connection, account: AccountKey, machine: &MachineId) -> Result<HashSet<i64>> {
    conn.all(
        "SELECT id FROM external_sessions WHERE account = ? AND machine = ? AND vanished",
        params![account.0, machine.as_str()],
        |row| row.get(0),
    )
}

fn find(
    conn: &Connection,
    account: AccountKey,
    machine: &MachineId,
    source: &str,
    id: &SessionId,
) -> Result<Option<Listed>> {
    let sql =
        format!("{COLUMNS} AND external_sessions.machine = ?2 AND source = ?3 AND session_id = ?4");
    conn.first(&sql, params![account.0, machine.as_str(), source, id.as_str()], listed_from)
}

fn listed_from(row: &Row<'_>) -> rusqlite::Result<Listed> {
    let session = ExternalSession {
        source: row.get(2)?,
        id: SessionId::new(row.get::<_, String>(3)?),
        project_dir: row.get(4)?,
        project_name: row.get(5)?,
        title: row.get(6)?,
        last_activity: Some(row.get(7)?).filter(|it| *it != 0).map(timestamp),
        preview: row.get(8)?,
        preview_author: row.get(9)?,
        recent: rows::json(row, 10)?.unwrap_or_default(),
    };
    Ok(Listed {
        key: row.get(0)?,
        machine: MachineId::new(row.get::<_, String>(1)?),
        session,
        vanished: row.get(11)?,
        thread: row.get::<_, Option<String>>(12)?.map(ThreadId::new),
    })
}
