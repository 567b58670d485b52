"""What gateway processes share, one file per need. Everything here is in the memory of one process for now."""
