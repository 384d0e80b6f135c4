"""The five modes of an exported graph, and when to choose which."""

MODES = {
    "merged": "W + ΔW in the file. Choose it for one adapter: no cost in a run, for any runtime.",
    "reconstruct": "W and θ in the file, ΔW rebuilt on loading. Choose it over a quantized base, or where the base's"
    " bytes are to stay what they are.",
    "input": "θ is an input of d floats. Choose it where requests come one adapter at a time: another vector is another feed.",
    "factored": "A and B are inputs, fed from an .onnx_adapter file. Choose it where ONNX Runtime's own adapters are in use.",
    "bank": "a stack of θ, and a number for each row. Choose it where requests for different adapters share a batch.",
}
FED = ("input", "factored")  # each run may bring another adapter
