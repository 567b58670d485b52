"""What callers may say: every field of every body, checked against closed tables."""
