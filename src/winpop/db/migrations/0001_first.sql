-- The first schema. AUTOINCREMENT everywhere: an identifier is never used twice, so nothing that remembers
-- one (an open session, the audit log, a lease) can mean another row by it.

CREATE TABLE setting (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE domain (
  id   INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE mailbox (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  domain_id INTEGER NOT NULL REFERENCES domain (id) ON DELETE CASCADE,
  name      TEXT NOT NULL,
  UNIQUE (domain_id, name)
) STRICT;

-- A lock is a row; unlocked is its absence. A mailbox is locked when a row names it or its domain.
CREATE TABLE domain_lock (
  domain_id INTEGER PRIMARY KEY REFERENCES domain (id) ON DELETE CASCADE
) STRICT;

CREATE TABLE mailbox_lock (
  mailbox_id INTEGER PRIMARY KEY REFERENCES mailbox (id) ON DELETE CASCADE
) STRICT;

-- The encrypted password file method: an argon2id hash in the PHC string format.
CREATE TABLE password (
  mailbox_id INTEGER PRIMARY KEY REFERENCES mailbox (id) ON DELETE CASCADE,
  hash       TEXT NOT NULL
) STRICT;

-- The bytes of a message as they arrived, once for all its recipients: here when small, else in a blob.
CREATE TABLE body (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  size    INTEGER NOT NULL,
  plain   INTEGER NOT NULL,   -- 1: no line begins with a dot
  blob    TEXT UNIQUE,
  content BLOB,
  CHECK ((content IS NULL) <> (blob IS NULL))
) STRICT;

CREATE TABLE message (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  mailbox_id INTEGER NOT NULL REFERENCES mailbox (id),
  body_id    INTEGER NOT NULL REFERENCES body (id),
  unique_id  TEXT NOT NULL,
  size       INTEGER NOT NULL,    -- octets of prefix and body together
  prefix     BLOB NOT NULL        -- what the server added: Return-Path, Received
) STRICT;

-- The listing of a maildrop is read from this index alone.
CREATE INDEX message_of_mailbox ON message (mailbox_id, id, size, unique_id, body_id);
CREATE INDEX message_of_body ON message (body_id);

-- Blobs whose rows are gone: to be unlinked after the commit that put them here.
CREATE TABLE discarded_blob (
  name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Who did what, refusals too. Its highest id is the change feed of everything an administrator changes.
CREATE TABLE audit (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  time      INTEGER NOT NULL,     -- seconds since 1970, UTC
  actor     TEXT NOT NULL,
  operation TEXT NOT NULL,
  target    TEXT NOT NULL,
  outcome   TEXT NOT NULL         -- done, unchanged, or the code of the refusal
) STRICT;
