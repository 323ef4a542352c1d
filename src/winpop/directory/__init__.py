"""Domains, mailboxes, locks, passwords and settings as rows.

Invariant: state is rows and nothing is told to anybody. A lock is a row; unlocked is its absence; a mailbox is
locked when a row names it or its domain. So locking a domain is one insert however many mailboxes it holds, and
a mailbox's own lock is untouched by its domain's.
"""
