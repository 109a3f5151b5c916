//! What must survive a crash: a `Disk` that makes writes durable, the spools, the bindings, the lock.

pub mod lock;
pub mod spool;
pub mod state;
