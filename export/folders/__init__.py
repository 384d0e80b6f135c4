"""Folders for other tools, from files to files with NumPy alone: checkpoints, PEFT's LoRA and UniLora."""
