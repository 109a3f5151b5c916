//! Codex for the rest of the program.

use std::time::Duration;

use rustix::process::Signal;

use super::{Codex, wire};
use crate::{
    agent::{
        Sandbox,
        description::{Description, Launch, McpNames, Package, Process},
        shell,
        stdio::{KILL, LadderStep},
    },
    proc::kill::To,
};

pub static DESCRIPTION: Description = Description {
    package: Some(Package {
        name: "@openai/codex",
        login: "run `codex login`",
        oldest_tried: "0.130.0",
    }),
    protocol: || Box::<Codex>::default(),
    launch: Launch::Process(Process {
        args: wire::args,
        env: &[],
        env_remove: &[],
        // The other way round than Claude: here an INT leaves the command behind (codex 0.169.0).
        // The launcher of the npm package hands the signal on.
        ladder: &[
            (LadderStep::CloseInput, Duration::from_secs(5)),
            (LadderStep::Signal(Signal::TERM, To::Process), Duration::from_secs(2)),
            KILL,
        ],
    }),
    has_bridge_tools: true,
    takes_reasons: true,
    // Its sandbox is the fence: what stays inside is not asked for.
    writes_unasked: |sandbox| sandbox != Sandbox::ReadOnly,
    resume_command: Some("codex resume"),
    session_file: None,
    asks_to_read: false,
    search_tools: &[],
    // The protocol composes these names itself.
    mcp_names: McpNames::PREFIXED,
    // bash, zsh or sh, and its command line says so; see `shell::unwrapped`.
    shell: shell::bourne,
};
