"""Reads a file or a data set, checks its rows, splits them into training and held-out rows, and orders them."""
