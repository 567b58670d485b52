"""The parts put together as one gateway: stores, router model, snapshot, its exchange for another, listeners."""
