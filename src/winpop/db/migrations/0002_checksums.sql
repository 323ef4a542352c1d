-- What a message's bytes have to be, and which installation this is.

-- SHA-256 of the body followed by the prefix of its messages; NULL for what came in before there were checksums.
ALTER TABLE body ADD COLUMN checksum BLOB;

-- A name that no other installation has: a backup knows by it whose rows it holds.
CREATE TABLE installation (
  name TEXT NOT NULL
) STRICT;

INSERT INTO installation (name) VALUES (lower(hex(randomblob(16))));
