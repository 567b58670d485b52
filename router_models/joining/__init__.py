"""Models that were not there at training join an artifact by an exam."""
