"""POP3, SMTP and LMTP as pure values.

A session has four doors: `receive(bytes)`, `needs()`, `supply(answer)`, `to_send()`, and one for what
comes from neither side of the dialogue: `end(reason)`. `to_send()` is two steps, `go_on()` and `take()`, for
who has answers at hand and takes what is to be sent when there is more of it (`unsent` says how much).
Invariant: no module here touches a socket, a clock, a random source, a thread, a file or a database; what a
session needs from outside it asks for.
"""
