"""Several processes that look like one gateway: the parent, its workers, and the channel between them."""
