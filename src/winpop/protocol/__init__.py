"""POP3, SMTP and LMTP as pure values.

A session has four doors: `receive(bytes)`, `needs()`, `supply(answer)`, `to_send()`, and one for what
comes from neither side of the dialogue: `end(reason)`. Invariant: no module here touches a socket, a
clock, a random source, a thread, a file or a database; what a session needs from outside it asks for.
"""
