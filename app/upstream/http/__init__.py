"""One exchange with one address: connections, their pool, deadlines, and what goes wrong on the way."""
