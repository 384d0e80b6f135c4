"""The five modes of an exported graph, and when to choose which."""

MODES = {
    "merged": "one adapter, on any runtime, at no cost in a run",
    "reconstruct": "over a quantized base, or where the base's bytes are to stay: θ is inside",
    "input": "requests come one adapter at a time: θ, d floats, is a feed",
    "factored": "where ONNX Runtime's own adapters are in use: A and B are feeds",
    "bank": "requests for different adapters share a batch: each row has a number",
}
FED = ("input", "factored")  # each run may bring another adapter
