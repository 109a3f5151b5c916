//! Integration tests: the library on real threads, sockets and files, in-process.

mod bridge_client;
mod util;
