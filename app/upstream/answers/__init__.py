"""What backends answer: read, checked, rewritten where that is needed, and passed on."""
