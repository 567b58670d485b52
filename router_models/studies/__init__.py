"""Experiments behind the claims: what the cards cannot show because it takes many trainings. Run as modules."""
