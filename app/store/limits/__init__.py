"""How much may be asked for at a time: in one process, in several, on several machines."""
