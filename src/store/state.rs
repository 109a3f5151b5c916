//! state.json: bindings of threads to machines and sessions.
