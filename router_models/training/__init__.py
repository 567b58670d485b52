"""Training router models: the only place that imports torch."""
