//! Claude Code for the rest of the program.

use std::time::Duration;

use rustix::process::Signal;

use super::{Claude, ENV, ENV_REMOVE, args, files};
use crate::{
    agent::{
        description::{Description, Launch, McpNames, Package, Process},
        shell,
        stdio::{KILL, LadderStep},
    },
    proc::kill::To,
};

pub static DESCRIPTION: Description = Description {
    package: Some(Package {
        name: "@anthropic-ai/claude-code",
        login: "start `claude` once to log in",
        oldest_tried: "2.1.141",
    }),
    protocol: || Box::<Claude>::default(),
    launch: Launch::Process(Process {
        args,
        env: ENV,
        env_remove: ENV_REMOVE,
        // After the interrupt. A TERM would leave Claude's running command behind, an INT does not
        // (claude 2.1.197).
        ladder: &[
            (LadderStep::CloseInput, Duration::from_secs(5)),
            (LadderStep::Signal(Signal::INT, To::Process), Duration::from_secs(5)),
            KILL,
        ],
    }),
    has_bridge_tools: true,
    takes_reasons: true,
    writes_unasked: |_| false,
    resume_command: Some("claude --resume"),
    // It locks nothing itself (2.1.197).
    session_file: Some(files::session_file),
    asks_to_read: false,
    search_tools: &["WebSearch"],
    mcp_names: McpNames::PREFIXED,
    // bash or zsh, also if `$SHELL` is another (2.1.197).
    shell: shell::bourne,
};
