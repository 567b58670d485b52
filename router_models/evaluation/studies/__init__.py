"""Studies: single questions about router models, each one command that prints its table."""
