-- Who may come in: SCRAM keys and sealed secrets beside the password's hash, accounts elsewhere, certificates; and
-- when a message came in, so that it can expire, and what it is for clients without UTF8.

-- RFC 5803 form, SCRAM-SHA-256$iterations:salt$stored key:server key; NULL until the password is seen next.
ALTER TABLE password ADD COLUMN scram_sha_1 TEXT;
ALTER TABLE password ADD COLUMN scram_sha_256 TEXT;
-- The password itself, sealed under the key of the installation: only where APOP or CRAM-MD5 are asked for.
ALTER TABLE password ADD COLUMN secret BLOB;

CREATE INDEX password_without_scram ON password (mailbox_id) WHERE scram_sha_256 IS NULL;

-- The account of a mailbox that is not in the encrypted password file: method 1 local, 2 Active Directory. What was
-- remembered of its password is forgotten with `generation`, a number of its own for each row and each change. `made`: we
-- have made the account, so we may delete it.
CREATE TABLE account (
  mailbox_id INTEGER PRIMARY KEY REFERENCES mailbox (id) ON DELETE CASCADE,
  method     INTEGER NOT NULL,
  identifier TEXT NOT NULL,
  generation INTEGER NOT NULL,
  made       INTEGER NOT NULL,
  UNIQUE (method, identifier)
) STRICT;

-- Certificates that the server shows, PEM with the chain, and their keys; use 'clients': those that clients' must be
-- signed by, which have no key. The one that is the default has 1 there.
CREATE TABLE certificate (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  use         TEXT NOT NULL,      -- 'server' or 'clients'
  chain       TEXT NOT NULL,
  private_key TEXT NOT NULL,
  is_default  INTEGER NOT NULL
) STRICT;

-- Seconds since 1970, UTC. What is there already counts from this upgrade on: nothing expires before its time.
ALTER TABLE message ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
UPDATE message SET received = CAST(strftime('%s', 'now') AS INTEGER);

-- Bodies whose header is UTF-8 beyond ASCII: octets of the body as clients without UTF8 get it (RFC 6858).
CREATE TABLE downgrade (
  body_id INTEGER PRIMARY KEY REFERENCES body (id) ON DELETE CASCADE,
  size    INTEGER NOT NULL
) STRICT;
