"""Several adapters in memory, one of them on the model, or one for each row of a batch."""
