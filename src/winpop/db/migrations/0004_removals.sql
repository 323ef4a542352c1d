-- How often messages were taken out of a mailbox, or changed there. Identifiers only grow, so with this number and the
-- newest message's a listing that was made earlier is known to hold still, or to lack only what is newer.
ALTER TABLE mailbox ADD COLUMN removals INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id = old.mailbox_id;
END;

CREATE TRIGGER message_changed AFTER UPDATE ON message BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id IN (old.mailbox_id, new.mailbox_id);
END;

-- Those that SCRAM cannot be offered for; whether there are any is asked every few seconds.
DROP INDEX password_without_scram;
CREATE INDEX password_without_scram ON password (mailbox_id) WHERE scram_sha_1 IS NULL OR scram_sha_256 IS NULL;
