-- Version 1. Times are milliseconds since 1970 in UTC.

CREATE TABLE accounts (
    id         INTEGER PRIMARY KEY,
    account_id TEXT    NOT NULL UNIQUE,
    username   TEXT    NOT NULL UNIQUE,
    email      TEXT,
    password   TEXT,                        -- see serve::password; NULL: tokens only
    created    INTEGER NOT NULL,
    pruned     INTEGER NOT NULL DEFAULT 0   -- the newest event that is no longer kept
) STRICT;

CREATE TABLE tokens (
    id      INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts,
    hash    BLOB    NOT NULL UNIQUE,        -- SHA-256
    prefix  TEXT    NOT NULL,
    machine TEXT,                           -- the last one that streamed with it
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT;

CREATE TABLE threads (
    id        INTEGER PRIMARY KEY,
    account   INTEGER NOT NULL REFERENCES accounts,
    thread_id TEXT    NOT NULL,
    title     TEXT    NOT NULL,
    agent     TEXT,
    machine   TEXT,                         -- who claimed it
    created   INTEGER NOT NULL,
    last      INTEGER NOT NULL,             -- when its newest message was created
    UNIQUE (account, thread_id)
) STRICT;
CREATE INDEX threads_by_last ON threads (account, last);

CREATE TABLE messages (
    id         INTEGER PRIMARY KEY,
    thread     INTEGER NOT NULL REFERENCES threads,
    message_id TEXT    NOT NULL UNIQUE,
    author     TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    kind       TEXT,
    body       TEXT    NOT NULL,
    created    INTEGER NOT NULL,
    UNIQUE (thread, created)                -- so `since=` can't skip one of two
) STRICT;

CREATE TABLE client_msg_ids (
    account       INTEGER NOT NULL REFERENCES accounts,
    client_msg_id TEXT    NOT NULL,
    message       INTEGER NOT NULL REFERENCES messages,
    PRIMARY KEY (account, client_msg_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts,
    kind    TEXT    NOT NULL,
    thread  INTEGER NOT NULL REFERENCES threads,
    message INTEGER REFERENCES messages,
    created INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_account ON events (account, seq);
