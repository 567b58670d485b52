"""What the gateway talks about: frozen dataclasses, enums and the table of dimensions. Plain Python."""
