"""Dialogues in the notation of the standards, and what reads and runs them."""
