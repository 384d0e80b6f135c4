"""What is done with a trained adapter: measured, asked for predictions and texts, described, and shared."""
