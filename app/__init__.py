"""The gateway, and the command line."""
