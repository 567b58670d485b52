"""From a conversation to the numbers that the heads read: what of it counts, its surface, its two encoders."""
