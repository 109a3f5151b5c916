-- Events are numbered anew in every new file; together with this random number their ids are not
-- mistaken for those of another.
CREATE TABLE epoch (value INTEGER NOT NULL) STRICT;
INSERT INTO epoch VALUES (random());

-- What refers to a message has to be found when the message is removed.
CREATE INDEX IF NOT EXISTS events_by_message ON events (message);
CREATE INDEX IF NOT EXISTS client_msg_ids_by_message ON client_msg_ids (message);
CREATE INDEX IF NOT EXISTS messages_by_created ON messages (created);
