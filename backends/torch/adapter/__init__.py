"""A vector on a model: where its factors come from, and how they act."""
