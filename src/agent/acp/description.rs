//! Any agent that speaks ACP, for the rest of the program.

use std::time::Duration;

use rustix::process::Signal;

use super::{Acp, asking};
use crate::{
    agent::{
        description::{Description, Launch, McpNames, McpReadings, Process},
        shell,
        stdio::{KILL, LadderStep},
    },
    proc::kill::To,
};

pub static DESCRIPTION: Description = Description {
    package: None,
    protocol: || Box::<Acp>::default(),
    launch: Launch::Process(Process {
        args: |_| Vec::new(),
        env: &[],
        env_remove: &[],
        // To the group, since the configured command may be a script around the agent.
        ladder: &[
            (LadderStep::CloseInput, Duration::from_secs(3)),
            (LadderStep::Signal(Signal::TERM, To::Group), Duration::from_secs(2)),
            KILL,
        ],
    }),
    has_bridge_tools: false,
    takes_reasons: false,
    writes_unasked: |_| false,
    resume_command: None,
    session_file: None,
    asks_to_read: false,
    search_tools: &["WebSearch", "codesearch", "google_web_search", "web_search", "websearch"],
    mcp_names: McpNames {
        name: McpNames::PREFIXED.name,
        // The adapters of Claude Code have its names, Gemini has titles.
        read: |name| {
            let titled = asking::titled(name).filter(|(tool, _)| !tool.contains(['(', ':']));
            match titled {
                Some((tool, server)) if !name.starts_with("mcp__") => {
                    McpReadings { names: vec![format!("{server}:{tool}")], is_any: false }
                }
                _ => (McpNames::PREFIXED.read)(name),
            }
        },
    },
    shell: shell::of_environment,
};
