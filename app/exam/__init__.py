"""The live exam of a new model: the paper, the sitting, faults of endpoints, and what is written of it."""
