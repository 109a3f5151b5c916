//! The machines that were ever seen on an account: what they said of themselves, and when.

use anyhow::Result;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use crate::{
    ids::MachineId,
    serve::store::{
        AccountKey, Sql, Store,
        rows::{json, millis, timestamp},
    },
    time::{self, Timestamp},
};

/// Machines of one account; the one that was not seen for longest makes room.
const MACHINES_MAX: u32 = 200;

/// What is known of a machine, connected or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: MachineId,
    pub version: Option<String>,
    pub capabilities: Vec<String>,
    pub engines: Vec<EngineState>,
    pub project_dirs: Vec<String>,
    pub last_seen: Timestamp,
}

/// An engine on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineState {
    pub name: String,
    pub version: Option<String>,
    /// Why it can't be used.
    pub missing: Option<String>,
}

/// What a machine says of itself.
#[derive(Debug)]
pub struct Report {
    pub version: Option<String>,
    pub engines: Vec<EngineState>,
    pub project_dirs: Vec<String>,
}

const COLUMNS: &str =
    "SELECT machine, version, capabilities, engines, project_dirs, last_seen FROM machines";

impl Store {
    /// These machines are here, or were until now. With the capabilities that they came with.
    pub fn saw_machines<'a>(
        &self,
        seen: impl IntoIterator<Item = (AccountKey, &'a MachineId, &'a [String])>,
    ) -> Result<()> {
        self.write(|write| {
            for (account, machine, capabilities) in seen {
                let capabilities = serde_json::to_string(capabilities)?;
                write.tx.change(
                    "INSERT INTO machines (account, machine, capabilities, last_seen)
                         VALUES (?, ?, ?, ?) ON CONFLICT (account, machine) DO UPDATE
                         SET capabilities = excluded.capabilities, last_seen = excluded.last_seen",
                    params![account.0, machine.as_str(), capabilities, millis(time::now())],
                )?;
                make_room(write.tx, account)?;
            }
            Ok(())
        })
    }

    /// Remembers what a machine says of itself. Whether that was news.
    pub fn report_machine(
        &self,
        account: AccountKey,
        machine: &MachineId,
        report: &Report,
    ) -> Result<bool> {
        let engines = serde_json::to_string(&report.engines)?;
        let dirs = serde_json::to_string(&report.project_dirs)?;
        self.write(|write| {
            let changed = write.tx.execute(
                "INSERT INTO machines (account, machine, version, engines, project_dirs, last_seen)
                 VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (account, machine) DO UPDATE
                 SET version = excluded.version, engines = excluded.engines,
                     project_dirs = excluded.project_dirs, last_seen = excluded.last_seen
                 WHERE version IS NOT excluded.version OR engines <> excluded.engines
                     OR project_dirs <> excluded.project_dirs",
                params![
                    account.0,
                    machine.as_str(),
                    report.version,
                    engines,
                    dirs,
                    millis(time::now())
                ],
            )?;
            make_room(write.tx, account)?;
            Ok(0 < changed)
        })
    }

    pub fn machine(&self, account: AccountKey, machine: &MachineId) -> Result<Option<Machine>> {
        self.reader().first(
            &format!("{COLUMNS} WHERE account = ? AND machine = ?"),
            params![account.0, machine.as_str()],
            machine_from,
        )
    }

    /// All machines of an account, the one that was seen last first.
    pub fn machines(&self, account: AccountKey) -> Result<Vec<Machine>> {
        let sql = format!("{COLUMNS} WHERE account = ? ORDER BY last_seen DESC, machine");
        self.reader().all(&sql, [account.0], machine_from)
    }
}

fn machine_from(row: &Row<'_>) -> rusqlite::Result<Machine> {
    Ok(Machine {
        id: MachineId::new(row.get::<_, String>(0)?),
        version: row.get(1)?,
        capabilities: json(row, 2)?.unwrap_or_default(),
        engines: json(row, 3)?.unwrap_or_default(),
        project_dirs: json(row, 4)?.unwrap_or_default(),
        last_seen: timestamp(row.get(5)?),
    })
}

fn make_room(conn: &Connection, account: AccountKey) -> Result<()> {
    conn.change(
        "DELETE FROM machines WHERE id IN (SELECT id FROM machines WHERE account = ?
         ORDER BY last_seen DESC, id DESC LIMIT -1 OFFSET ?)",
        params![account.0, MACHINES_MAX],
    )?;
    Ok(())
}

/// None is any machine.
pub(super) fn is_known(
    conn: &Connection,
    account: AccountKey,
    machine: Option<&str>,
) -> Result<bool> {
    conn.has(
        "SELECT 1 FROM machines WHERE account = ?1 AND machine = ifnull(?2, machine)",
        params![account.0, machine],
    )
}

/// Whether the machine, or any if none is given, lets agents work in this directory.
pub(super) fn offers(
    conn: &Connection,
    account: AccountKey,
    machine: Option<&str>,
    dir: &str,
) -> Result<bool> {
    conn.has(
        "SELECT 1 FROM machines, json_each(machines.project_dirs) AS dirs
             WHERE account = ?1 AND machine = ifnull(?2, machine) AND dirs.value = ?3",
        params![account.0, machine, dir],
    )
}
