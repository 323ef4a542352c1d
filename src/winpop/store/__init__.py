"""The mail store: which mail there is.

A message goes through these states, and in each its promise is this:

    spooled     its bytes are in memory, or in a file in `tmp`      no promise; a crash forgets it
    placed      its blob is on disk under its name (large ones)     no promise; a sweep finds it
    delivered   its rows are committed                              from here on `250` may be said
    listed      an open session has it in its snapshot              delivered, with a number
    marked      a session was told DELE                             delivered; any end but QUIT forgets the mark
    expunged    the commit of QUIT removed its row                  from here on `+OK` may be said; never comes back
    expired     a commit removed its row because of its age         in a locked mailbox, and in an open session: never
    swept       its blob, if nobody else has the message, is gone

Invariant: a row never names bytes that are not wholly on disk. So a blob is synchronised, and its directory entry
too, before the row is committed, and a blob is unlinked only after the commit that removed its last row. A crash
between any two steps leaves at most a file that no row names, which the sweep removes.

What arrived is what is given out: bodies are never rewritten (clients without UTF8 get another header, made anew each
time). What the server adds (Return-Path, Received) is a prefix of its own. A message to many recipients has one body.
Unique-ids are random, stored, never derived, never used again (RFC 1939 §7). On disk everything has an opaque name;
names of mailboxes never become paths.
"""
