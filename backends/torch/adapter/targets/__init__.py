"""Finds the weights that a user names as targets, and how each counts as a matrix."""
