"""Who may come in: authentication methods, one per server, each where the truth about passwords lies.

An authentication *method* is not a SASL *mechanism*, which is how passwords are said on the wire.
"""
