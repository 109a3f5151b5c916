//! Which engines work on this machine, and why not: found, version, can start.
