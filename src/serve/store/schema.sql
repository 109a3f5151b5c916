-- The schema. Times are milliseconds since 1970 in UTC.

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
    revoked INTEGER,
    used    INTEGER                         -- to the minute
) STRICT;
CREATE INDEX tokens_by_account ON tokens (account);

CREATE TABLE sessions (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given out twice: streams hold it
    account INTEGER NOT NULL REFERENCES accounts,
    hash    BLOB    NOT NULL UNIQUE,            -- SHA-256 of the cookie
    created INTEGER NOT NULL,
    seen    INTEGER NOT NULL,                   -- to the minute
    expires INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_account ON sessions (account);

-- Codes of one-time links: each lets its holder set the account's password.
CREATE TABLE welcomes (
    account INTEGER PRIMARY KEY REFERENCES accounts,
    hash    BLOB    NOT NULL UNIQUE,            -- SHA-256 of the code
    expires INTEGER NOT NULL
) STRICT;

CREATE TABLE threads (
    id          INTEGER PRIMARY KEY,
    account     INTEGER NOT NULL REFERENCES accounts,
    thread_id   TEXT    NOT NULL,
    title       TEXT    NOT NULL,
    agent       TEXT,
    machine     TEXT,                       -- the one that claimed it
    created     INTEGER NOT NULL,
    last        INTEGER NOT NULL,           -- when its newest message was created
    project_dir TEXT,                       -- where a fresh session works
    read        INTEGER NOT NULL DEFAULT 0, -- messages up to here were seen
    deleted     INTEGER,                    -- the row stays: its id is used up
    adoption    TEXT,                       -- JSON, for its first reply
    UNIQUE (account, thread_id)
) STRICT;
CREATE INDEX threads_by_last ON threads (account, last);

CREATE TABLE messages (
    id               INTEGER PRIMARY KEY,
    thread           INTEGER NOT NULL REFERENCES threads,
    message_id       TEXT    NOT NULL UNIQUE,
    author           TEXT    NOT NULL,
    role             TEXT    NOT NULL,
    kind             TEXT,
    body             TEXT    NOT NULL,
    created          INTEGER NOT NULL,
    question         TEXT,                  -- JSON: an approval prompt
    question_code    TEXT,
    question_expires INTEGER,
    closed           TEXT,                  -- how that prompt ended
    question_closed  TEXT,                  -- JSON: this message says such an end
    adoption         TEXT,                  -- JSON: the session to take over with it
    origin           TEXT,                  -- which turn of an adopted session it is
    via              TEXT,                  -- 'token': a program said it for its human
    UNIQUE (thread, created)                -- so `since=` can't skip one of two
) STRICT;
CREATE INDEX messages_open ON messages (thread, question_code)
    WHERE question IS NOT NULL AND closed IS NULL;
CREATE UNIQUE INDEX messages_by_origin ON messages (thread, origin) WHERE origin IS NOT NULL;
CREATE INDEX messages_by_created ON messages (created);

CREATE TABLE client_msg_ids (
    account       INTEGER NOT NULL REFERENCES accounts,
    client_msg_id TEXT    NOT NULL,
    message       INTEGER NOT NULL REFERENCES messages,
    PRIMARY KEY (account, client_msg_id)
) STRICT, WITHOUT ROWID;
-- What refers to a message has to be found when the message is removed.
CREATE INDEX client_msg_ids_by_message ON client_msg_ids (message);

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts,
    kind    TEXT    NOT NULL,
    thread  INTEGER NOT NULL REFERENCES threads,
    message INTEGER REFERENCES messages,
    created INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_account ON events (account, seq);
CREATE INDEX events_by_message ON events (message);

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
    thread         INTEGER REFERENCES threads,   -- that goes on with it
    UNIQUE (account, machine, source, session_id)
) STRICT;
CREATE INDEX external_sessions_by_thread ON external_sessions (thread);

-- Events are numbered anew in every new file; together with this random number their ids are not
-- mistaken for those of another.
CREATE TABLE epoch (value INTEGER NOT NULL) STRICT;
INSERT INTO epoch VALUES (random());
