"""How good an answer is, by rules alone."""
