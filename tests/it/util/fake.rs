//! The engine that misbehaves on demand: `tests/fake-agent.rs`.

use std::{
    env::{self, temp_dir},
    path::PathBuf,
};

use obto_bridge::proc::{Plan, sweep::MARKER};

/// Where cargo puts examples: next to the directory of the test binaries.
pub(crate) fn program() -> PathBuf {
    let binary = env::current_exe().unwrap();
    let program =
        binary.parent().and_then(|deps| deps.parent()).unwrap().join("examples/fake-agent");
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    program
}

/// The fake engine with these directives and this marker.
pub(crate) fn plan(marker: &str, directives: &[&str]) -> Plan {
    Plan {
        program: program(),
        args: directives.iter().map(Into::into).collect(),
        dir: temp_dir(),
        env: vec![(MARKER.into(), marker.into())],
    }
}
