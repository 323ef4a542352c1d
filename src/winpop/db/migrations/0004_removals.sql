-- How often messages were taken out of a mailbox, changed there, or brought back to where they stood. All others get
-- identifiers that only grow, so with this number and the newest message's a listing that was made earlier is known to
-- hold still, or to lack only what is newer.
ALTER TABLE mailbox ADD COLUMN removals INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id = old.mailbox_id;
END;

CREATE TRIGGER message_changed AFTER UPDATE ON message BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id IN (old.mailbox_id, new.mailbox_id);
END;

-- What a repair changes in what a message is for clients without UTF8.
CREATE TRIGGER body_changed AFTER UPDATE OF size ON body BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id IN (SELECT mailbox_id FROM message WHERE body_id = new.id);
END;

CREATE TRIGGER downgrade_made AFTER INSERT ON downgrade BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id IN (SELECT mailbox_id FROM message WHERE body_id = new.body_id);
END;

CREATE TRIGGER downgrade_changed AFTER UPDATE ON downgrade BEGIN
  UPDATE mailbox SET removals = removals + 1 WHERE id IN (SELECT mailbox_id FROM message WHERE body_id = new.body_id);
END;

-- Those that SCRAM cannot be offered for; whether there are any is asked every few seconds.
DROP INDEX password_without_scram;
CREATE INDEX password_without_scram ON password (mailbox_id) WHERE scram_sha_1 IS NULL OR scram_sha_256 IS NULL;
