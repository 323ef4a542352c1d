"""winpop: a mail host with e-mail domains, mailboxes, POP3 and mail receiving, administered with one tool.

The rooms, from the top: `cli` (the tool), `services` (sockets and processes), `admin` (the operations),
`auth` and `store`, `directory`, `db`, `protocol` and `telemetry`, `terms`. Each imports only from below.
"""

__version__ = "0.1.0"
