"""The nouns of the house as small frozen types that can hold only legal values.

Invariant: a value of one of these types was parsed at the border; nobody below parses it again.
"""
