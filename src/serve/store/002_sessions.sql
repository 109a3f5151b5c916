-- Version 2: people sign in.

CREATE TABLE sessions (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given out twice: streams hold it
    account INTEGER NOT NULL REFERENCES accounts,
    hash    BLOB    NOT NULL UNIQUE,            -- SHA-256 of the cookie
    created INTEGER NOT NULL,
    seen    INTEGER NOT NULL,                   -- to the minute
    expires INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_account ON sessions (account);

-- Codes of one-time links: whoever has one may set the account's password.
CREATE TABLE welcomes (
    account INTEGER PRIMARY KEY REFERENCES accounts,
    hash    BLOB    NOT NULL UNIQUE,            -- SHA-256 of the code
    expires INTEGER NOT NULL
) STRICT;

ALTER TABLE tokens ADD COLUMN used INTEGER;     -- to the minute
CREATE INDEX tokens_by_account ON tokens (account);
