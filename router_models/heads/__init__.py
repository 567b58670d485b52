"""From the numbers of a prompt to a predicted quality and length for each model. NumPy only, and no text."""
