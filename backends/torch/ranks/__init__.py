"""Planners of ranks: before training, and callbacks that move ranks during training."""
