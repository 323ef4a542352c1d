"""POP3, SMTP and LMTP as pure values.

A session has four doors: `receive(bytes)`, `needs()`, `supply(answer)`, `to_send()`, and one for what
comes from neither side of the dialogue: `end(reason)`. Who has an answer at hand goes on (`go_on()`)
and takes what is to be sent (`take()`) when there is more of it: `to_send()` is both. Invariant: no module
here touches a socket, a clock, a random source, a thread, a file or a database; what a session needs from
outside it asks for.
"""
