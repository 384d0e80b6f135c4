"""Saving a model's adapter and reading it again: files, states, checkpoints and folders."""
