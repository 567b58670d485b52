"""Task families: seeded items with an answer that a rule can judge."""
