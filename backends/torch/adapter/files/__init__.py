"""What is saved of a model with an adapter, and read again: files, states, checkpoints, folders."""
