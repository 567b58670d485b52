"""The replicas of all backends: which are well, which is chosen, and what is told of them."""
