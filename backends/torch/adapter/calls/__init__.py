"""Calls of an adapted model: where they come in, and which factors act in each of them."""
