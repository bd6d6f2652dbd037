"""Inboxes: exports that arrive are published once, when they are complete, and what the rules say follows."""
