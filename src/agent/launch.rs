//! A row of the table of engines: which program, which arguments and environment it is started with,
//! and what to tell a person whose machine lacks it.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{self, ErrorKind},
    path::PathBuf,
};

use crate::{
    agent::{
        Failure, FailureKind, Login, TurnSpec,
        description::{Description, Package, Process},
    },
    config::agents::{Vars, is_ours},
    ids::Engine,
    proc::{Plan, sweep::MARKER},
};

/// For a directory that went between two looks at it.
const AGAIN: &str =
    "Send the message again: a session whose directory is gone is replaced by a new one.";

#[derive(Clone, Debug)]
pub struct EngineDef {
    pub name: Engine,
    /// The program, from `PATH` or the config, and the arguments that always come first. Never
    /// empty.
    pub command: Vec<String>,
    pub description: &'static Description,
    /// Its own variables, above what engines inherit.
    pub env: Vars,
    /// How it is told to log in (ACP).
    pub auth_method: Option<String>,
}

impl EngineDef {
    pub fn program(&self) -> &str {
        self.command.first().expect("rows without a program aren't made")
    }

    /// The environment of the engine; `inherited` is what all engines have, see [`inherited`].
    pub fn environment(&self, inherited: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        // Of two values the last one counts.
        inherited.iter().cloned().chain(self.env.reveal()).collect()
    }

    /// What it can be told to log in with.
    pub fn login(&self, inherited: &[(OsString, OsString)]) -> Login {
        let env: BTreeMap<_, _> = self.environment(inherited).into_iter().collect();
        let set = env.into_iter().filter(|(_, value)| !value.is_empty());
        let variables = set.filter_map(|(name, _)| name.into_string().ok()).collect();
        Login { method: self.auth_method.clone(), variables }
    }

    /// The program with the arguments that always come first. `env` is what engines inherit; see
    /// [`inherited`].
    pub fn base(&self, dir: PathBuf, env: &[(OsString, OsString)]) -> Plan {
        let args = self.command[1..].iter().map(OsString::from).collect();
        Plan { program: self.program().into(), args, dir, env: self.environment(env) }
    }

    /// How to start the engine for a turn. `marker` is the turn's; see [`crate::proc::sweep`].
    pub fn plan(
        &self,
        process: &Process,
        spec: &TurnSpec,
        env: &[(OsString, OsString)],
        marker: &str,
    ) -> Plan {
        let mut plan = self.base(spec.project_dir.clone().into(), env);
        plan.args.extend((process.args)(spec).into_iter().map(OsString::from));
        plan.env.retain(|(name, _)| !process.env_remove.iter().any(|removed| name == *removed));
        let own = process.env.iter().copied().chain([(MARKER, marker)]);
        plan.env.extend(own.map(|(name, value)| (name.into(), value.into())));
        plan
    }

    /// How to get the engine, for a person who does not have it.
    pub fn how_to_install(&self) -> String {
        let program = self.program();
        self.description.package.as_ref().map_or_else(
            || format!("Install `{program}`, or correct its command in the config file."),
            |Package { name, login, .. }| {
                format!("Install it with `npm install -g {name}`, then {login}.")
            },
        )
    }

    /// The end of a turn for which the program was not started.
    pub fn not_started(&self, error: &io::Error) -> Failure {
        let program = self.program();
        let (kind, message) =
            (FailureKind::NotInstalled, format!("`{program}` could not be started: {error}."));
        let limits = "Look at the daemon's log and at the limits of the machine (processes, open \
                      files, memory), then send the message again.";
        match error.kind() {
            ErrorKind::NotFound => Failure::new(
                kind,
                format!("`{program}` was not found on this machine."),
                self.how_to_install(),
            ),
            ErrorKind::InvalidData => {
                let again = self.how_to_install();
                Failure::new(kind, message, format!("What is installed is broken. {again}"))
            }
            ErrorKind::PermissionDenied => Failure::new(
                kind,
                message,
                "Look at its permissions and those of its directories, and whether its file system is \
                 mounted `noexec`.",
            ),
            ErrorKind::NotADirectory => Failure::new(FailureKind::Refused, message, AGAIN),
            _ => Failure::new(kind, message, limits),
        }
    }
}

/// What an engine inherits of `env`: everything but what is ours, and nothing that holds `token`,
/// whatever its name.
pub fn inherited(
    env: &BTreeMap<OsString, OsString>,
    token: Option<&str>,
) -> Vec<(OsString, OsString)> {
    env.iter()
        .filter(|(name, value)| !is_ours(name) && !holds(value, token))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Whether `token` is in `value`, alone or as a part, as in a URL.
fn holds(value: &OsStr, token: Option<&str>) -> bool {
    let token = token.unwrap_or_default().as_bytes();
    !token.is_empty() && value.as_encoded_bytes().windows(token.len()).any(|window| window == token)
}
