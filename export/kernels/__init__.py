"""What ONNX Runtime does in each run of a file, and where on a GPU."""
