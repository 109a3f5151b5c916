//! The routes about machines: the list for people, and what a daemon says of its own.

use serde_json::json;

use crate::{
    ids::MachineId,
    serve::{
        api::{Answer, Api, input::daemon_only},
        http::message::{Request, Response},
        store::{
            Caller,
            machines::{EngineState, Report},
        },
        visit,
        wire::{self, Fields, NAME_CHARS, PATH_CHARS},
    },
};

const ENGINES_MAX: usize = 100;
const PROJECT_DIRS_MAX: usize = 500;
const REASON_CHARS: usize = 2000;

/// Those that are connected come first, then those that were seen last.
pub(super) fn list(api: &Api, caller: Caller, _: &Request) -> Answer {
    let connected = api.hub.machines(caller.account);
    let mut known = api.store.machines(caller.account)?;
    known.sort_by_key(|it| !connected.contains_key(&it.id));
    let machines: Vec<_> =
        known.iter().map(|it| wire::machine(it, connected.get(&it.id))).collect();
    Ok(Response::ok(json!({ "machines": machines })))
}

pub(super) fn report(api: &Api, caller: Caller, request: &Request) -> Answer {
    daemon_only(caller)?;
    let fields = Fields::parse(&request.body)?;
    let machine = MachineId::new(fields.name("agentId")?);
    let engines = fields.objects("engines", ENGINES_MAX)?;
    let engines = engines.iter().map(|it| {
        Ok(EngineState {
            name: it.name("name")?,
            version: it.optional_line("version", NAME_CHARS)?,
            missing: it.optional_text("missing", REASON_CHARS)?,
        })
    });
    let report = Report {
        version: fields.optional_line("version", NAME_CHARS)?,
        engines: engines.collect::<Result<_, Response>>()?,
        project_dirs: fields.lines("projectDirs", PROJECT_DIRS_MAX, PATH_CHARS)?,
    };
    if api.store.report_machine(caller.account, &machine, &report)? {
        visit::tell(&api.store, &api.hub, caller.account, &machine);
    }
    Ok(Response::ok(json!({})))
}
