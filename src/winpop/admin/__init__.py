"""One way in for every face: the operations, who may do them, and the audit.

Invariant: nothing administrative happens but by `invoke`. Each change and its audit row are one transaction, so the
highest identifier in the audit is a change feed that misses nothing; a secret never reaches the audit. A face (the
command line; REST and the console later) turns what it was given into arguments and an `Outcome` into what it shows,
and has no power of its own.
"""
