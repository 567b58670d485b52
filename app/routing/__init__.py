"""Which model: filter, estimate, rank. No I/O."""
