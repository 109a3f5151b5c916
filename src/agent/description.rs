//! What the rest of the program has to know of an engine, in one place. Each engine's folder
//! describes itself in a [`Description`] and the table in [`super::engines`] lists them; callers ask
//! the description and never compare names. An engine with a protocol of its own is a folder, a row
//! of the table and a row in docs/agents.md.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{
    agent::{Protocol, Sandbox, TurnSpec, shell::Shell, stdio::Ladder},
    ids::SessionId,
};

/// One kind of engine.
#[derive(Debug)]
pub struct Description {
    /// How it is installed and asked for its version. None for agents of the config, since it is
    /// unknown what such a program does with `--version`.
    pub package: Option<Package>,
    /// A fresh protocol for one turn.
    pub protocol: fn() -> Box<dyn Protocol>,
    pub launch: Launch,
    /// Whether the model can use `bridge_post` and `bridge_thread_read`.
    pub has_bridge_tools: bool,
    /// Whether the model can be told why something was refused.
    pub takes_reasons: bool,
    /// Whether it writes in the project without asking first, in this sandbox.
    pub writes_unasked: fn(Sandbox) -> bool,
    /// What a person types, before the session's id, to go on with a session in a terminal.
    pub resume_command: Option<&'static str>,
    /// Where the engine keeps a session, if that is a file which tells whether someone else has
    /// written to the session.
    pub session_file: Option<SessionFile>,
    /// It is made to ask for what it would read in the project without asking, so that it can be seen
    /// where that leads.
    pub asks_to_read: bool,
    /// The tools that search the web, by their exact names. What another one gets may be an address.
    pub search_tools: &'static [&'static str],
    pub mcp_names: McpNames,
    /// What reads its command lines, from the environment that the engine is started with.
    pub shell: fn(&[(OsString, OsString)]) -> Shell,
}

/// An engine that npm installs.
#[derive(Debug)]
pub struct Package {
    pub name: &'static str,
    /// What to do after the installation, as the end of "then …".
    pub login: &'static str,
    /// The oldest version that the protocol was tried with.
    pub oldest_tried: &'static str,
}

/// What a turn's engine runs in.
#[derive(Debug)]
pub enum Launch {
    /// A process of the turn's own, which speaks lines of JSON on its standard streams.
    Process(Process),
    /// opencode's server, which all turns share.
    SharedServer,
}

/// How a turn's process is started and ended.
#[derive(Debug)]
pub struct Process {
    /// What follows the program on the command line.
    pub args: fn(&TurnSpec) -> Vec<String>,
    /// Variables that the process is given.
    pub env: &'static [(&'static str, &'static str)],
    /// Variables that would change what the engine does.
    pub env_remove: &'static [&'static str],
    /// How the process is made to leave.
    pub ladder: Ladder,
}

/// The file of a session, from the environment that the engine is started with and the project's
/// directory; none if there can't be one.
pub type SessionFile = fn(&[(OsString, OsString)], &Path, &SessionId) -> Option<PathBuf>;

/// How an engine names the tools of MCP servers.
#[derive(Debug)]
pub struct McpNames {
    /// The name of a server's tool.
    pub name: fn(server: &str, tool: &str) -> String,
    /// Whose tool a name is.
    pub read: fn(&str) -> McpReadings,
}

/// What an MCP tool's name can mean, as `server:tool`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct McpReadings {
    /// Empty if the name is no MCP tool's.
    pub names: Vec<String>,
    /// Any reading may be the right one, and one is enough to allow the tool: the name alone cannot
    /// tell them apart. Else a rule must cover all.
    pub is_any: bool,
}

/// Readings of one name at most; what else a name could mean is left out.
const READINGS_MAX: usize = 64;

impl McpNames {
    /// `mcp__server__tool`. Both names may contain `__`, so a rule must cover every reading.
    pub const PREFIXED: McpNames = McpNames {
        name: |server, tool| format!("mcp__{server}__{tool}"),
        read: |name| McpReadings {
            names: name.strip_prefix("mcp__").map(|name| splits(name, "__")).unwrap_or_default(),
            is_any: false,
        },
    };
}

/// All ways to take `name` apart at `between`, as `server:tool`.
pub fn splits(name: &str, between: &str) -> Vec<String> {
    let all = name.match_indices(between).map(|(at, _)| at);
    all.map(|at| (&name[..at], &name[at + between.len()..]))
        .filter(|(server, tool)| !server.is_empty() && !tool.is_empty())
        .take(READINGS_MAX)
        .map(|(server, tool)| format!("{server}:{tool}"))
        .collect()
}
