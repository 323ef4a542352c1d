"""The authentication method "local accounts": the users of this computer, their passwords checked by PAM.

`method` asks, in each worker; `helper` is the process that keeps root, and does nothing but this: it hands each request
to a child of its own (`request`), which asks `pam`; `users` says who counts. `accounts` makes users for the tool, with
the hands of root (`hands`). Invariant: no process that parses bytes from the network has root, and none that has root
loads a PAM module but a child that is killed when its time is over.
"""
