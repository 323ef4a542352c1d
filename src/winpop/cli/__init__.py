"""The command line, `winpop`: words and switches, made from the table of operations.

Invariant: exactly one JSON document on standard output with `--json`, errors too; errors are one sentence on standard
error and never a traceback; the exit status is 0 done, 1 refused, 2 not understood, 3 not permitted, 4 out of reach.
"""
