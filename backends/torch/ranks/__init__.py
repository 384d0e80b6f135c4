"""Planners of ranks, and what moves ranks."""
