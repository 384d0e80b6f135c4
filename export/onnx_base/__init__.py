"""A base that is an ONNX file, from whatever exporter; PyTorch is not needed."""
