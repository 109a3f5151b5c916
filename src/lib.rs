//! obto-bridge as a library: everything but the thirty lines of `main`, so that tests run the
//! daemon and the embedded bridge in-process on real threads. Modules stand in reading order.

pub mod ascii;
pub mod ids;
pub mod time;
pub mod visible;

pub mod cli;
pub mod config;
pub mod logging;

pub mod coordinator;
pub mod daemon;
pub mod worker;

pub mod bridge;

pub mod agent;

pub mod permission;
pub mod prompt;

pub mod store;

#[cfg(feature = "serve")]
pub mod serve;

pub mod proc;
pub mod signals;
pub mod task;
