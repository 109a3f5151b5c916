//! Inbox and outbox: one file an entry.
