//! State for one process alone: a directory that goes with it, and a machine of its own.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    config::Env,
    ids::{self, MachineId},
};

/// A directory below `TMPDIR`, for its owner alone; gone with this.
#[derive(Debug)]
pub(super) struct Ephemeral(PathBuf);

impl Ephemeral {
    pub(super) fn new(env: &Env) -> anyhow::Result<Ephemeral> {
        let temp = env.var("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let dir = env.cwd.join(temp).join(format!("obto-bridge-{}", ids::random_hex()));
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.with_context(|| {
            format!("making a directory for the state, {}; TMPDIR says where", dir.display())
        })?;
        Ok(Ephemeral(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!(error:% = error; "the temporary directory {} stays", self.0.display());
        }
    }
}

/// The machine's name with something of its own behind it, unless `AGENT_ID` names it.
pub(super) fn machine(configured: &MachineId, env: &Env) -> MachineId {
    if env.var("AGENT_ID").is_some() {
        return configured.clone();
    }
    MachineId::new(format!("{configured}-run-{}", &ids::random_hex()[..8]))
}
