"""A caller's connection: bytes in, calls out, answers back."""
