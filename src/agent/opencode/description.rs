//! opencode for the rest of the program.

use super::Opencode;
use crate::agent::{
    description::{Description, Launch, McpNames, McpReadings, Package, splits},
    shell,
};

pub static DESCRIPTION: Description = Description {
    package: Some(Package {
        name: "opencode-ai",
        login: "run `opencode auth login`",
        oldest_tried: "1.18.33",
    }),
    protocol: || Box::<Opencode>::default(),
    launch: Launch::SharedServer,
    has_bridge_tools: false,
    takes_reasons: true,
    writes_unasked: |_| false,
    resume_command: Some("opencode --session"),
    session_file: None,
    asks_to_read: true,
    search_tools: &["codesearch", "websearch"],
    // Both names may have a `_` of their own.
    mcp_names: McpNames {
        name: |server, tool| format!("{server}_{tool}"),
        read: |name| McpReadings { names: splits(name, "_"), is_any: true },
    },
    shell: shell::of_environment,
};
