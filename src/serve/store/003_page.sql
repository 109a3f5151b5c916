-- Version 3: what the page shows, pictures, machines, and sessions that were started elsewhere.

ALTER TABLE threads ADD COLUMN project_dir TEXT;                 -- where a fresh session works
ALTER TABLE threads ADD COLUMN read INTEGER NOT NULL DEFAULT 0;  -- messages up to here were seen
ALTER TABLE threads ADD COLUMN deleted INTEGER;                  -- the row stays: its id is used up
ALTER TABLE threads ADD COLUMN adoption TEXT;                    -- JSON, for its first reply
UPDATE threads SET read = last;

ALTER TABLE messages ADD COLUMN question TEXT;            -- JSON: the card of a question
ALTER TABLE messages ADD COLUMN question_code TEXT;
ALTER TABLE messages ADD COLUMN question_expires INTEGER;
ALTER TABLE messages ADD COLUMN closed TEXT;              -- how that question ended
ALTER TABLE messages ADD COLUMN question_closed TEXT;     -- JSON: this message says such an end
ALTER TABLE messages ADD COLUMN adoption TEXT;            -- JSON: the session to take over with it
ALTER TABLE messages ADD COLUMN origin TEXT;              -- which turn of an adopted session it is
CREATE INDEX messages_open ON messages (thread, question_code)
    WHERE question IS NOT NULL AND closed IS NULL;
CREATE UNIQUE INDEX messages_by_origin ON messages (thread, origin) WHERE origin IS NOT NULL;
-- Deleting a message looks for what refers to it.
CREATE INDEX events_by_message ON events (message);
CREATE INDEX client_msg_ids_by_message ON client_msg_ids (message);

CREATE TABLE attachments (
    id            INTEGER PRIMARY KEY,
    account       INTEGER NOT NULL REFERENCES accounts,
    attachment_id TEXT    NOT NULL UNIQUE,
    message       INTEGER REFERENCES messages ON DELETE CASCADE,  -- NULL: not sent yet
    position      INTEGER NOT NULL DEFAULT 0,
    name          TEXT    NOT NULL,
    media_type    TEXT    NOT NULL,
    bytes         INTEGER NOT NULL,
    width         INTEGER,
    height        INTEGER,
    created       INTEGER NOT NULL
) STRICT;
CREATE INDEX attachments_by_account ON attachments (account);
CREATE INDEX attachments_by_message ON attachments (message);

CREATE TABLE attachment_data (
    attachment INTEGER PRIMARY KEY REFERENCES attachments ON DELETE CASCADE,
    data       BLOB NOT NULL
) STRICT;

CREATE TABLE machines (
    id           INTEGER PRIMARY KEY,
    account      INTEGER NOT NULL REFERENCES accounts,
    machine      TEXT    NOT NULL,
    version      TEXT,
    capabilities TEXT    NOT NULL DEFAULT '[]',  -- JSON
    engines      TEXT    NOT NULL DEFAULT '[]',  -- JSON
    project_dirs TEXT    NOT NULL DEFAULT '[]',  -- JSON
    last_seen    INTEGER NOT NULL,
    UNIQUE (account, machine)
) STRICT;

CREATE TABLE external_sessions (
    id             INTEGER PRIMARY KEY,
    account        INTEGER NOT NULL REFERENCES accounts,
    machine        TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    session_id     TEXT    NOT NULL,
    project_dir    TEXT,
    project_name   TEXT,
    title          TEXT    NOT NULL,
    last_activity  INTEGER NOT NULL,
    preview        TEXT,
    preview_author TEXT,
    recent         TEXT    NOT NULL,             -- JSON
    vanished       INTEGER NOT NULL DEFAULT 0,
    thread         INTEGER REFERENCES threads,   -- who took it over
    UNIQUE (account, machine, source, session_id)
) STRICT;
CREATE INDEX external_sessions_by_thread ON external_sessions (thread);
