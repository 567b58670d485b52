"""One record of every admitted request, and its way to where it is kept."""
