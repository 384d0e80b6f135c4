"""Which weights a user means, by which names, and as which matrices."""
