"""Prompts × models → an outcomes dataset: ask every model every prompt, grade the answers, keep what they cost."""
