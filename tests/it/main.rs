//! The one integration binary: modules by subject. The real binary, real OS threads, sockets and
//! files.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails, here and in its helpers")]
#![cfg_attr(
    not(feature = "serve"),
    expect(dead_code, reason = "some helpers are for tests that need the embedded bridge")
)]

#[cfg(all(feature = "serve", target_os = "linux"))]
mod asking_without_a_disk;
mod bridge_client;
mod bridge_outbox;
mod bridge_renewal;
mod bridge_stream;
mod cli;
#[cfg(all(feature = "serve", target_os = "linux"))]
mod crash;
#[cfg(feature = "serve")]
mod daemon;
#[cfg(feature = "serve")]
mod faults;
#[cfg(all(feature = "serve", target_os = "linux"))]
mod footprint;
#[cfg(all(feature = "serve", target_os = "linux"))]
mod leftovers;
#[cfg(all(feature = "serve", target_os = "linux"))]
mod limits;
#[cfg(target_os = "linux")]
mod long;
mod proc;
#[cfg(feature = "serve")]
mod serve;
#[cfg(target_os = "linux")]
mod shells;
mod store;
mod tidy;
mod turn;
mod util;

use std::alloc::System;

use cap::Cap;

/// Counts what is allocated. What the system says of a process's memory is what it had at most,
/// which depends on how its OS threads took turns.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);
