"""Budgets: what keys may spend, and the banks that lend it to processes."""
