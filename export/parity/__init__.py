"""Whether a file answers as it should: ONNX Runtime's answers against a reference's."""
