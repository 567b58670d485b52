"""Measuring router models: baselines, metrics with intervals, plots, the model card."""
