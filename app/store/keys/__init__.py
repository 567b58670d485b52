"""Keys that were generated: how they look, where they are kept, and who makes and ends them."""
