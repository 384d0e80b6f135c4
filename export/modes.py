"""The modes of an exported graph, when to choose which, and how a graph is written for runtimes that lack something."""

from dataclasses import dataclass

from unilora_spec import UniLoraError

MODES = {
    "merged": "one adapter, on any runtime, at no cost in a run",
    "reconstruct": "over a quantized base, or where the base's bytes are to stay: θ is inside",
    "input": "requests come one adapter at a time: θ, d floats, is a feed",
    "factored": "where LoRA adapters of any rank are switched: A and B are feeds",
    "bank": "requests for different adapters share a batch: each row has a number",
    "step": "to train where PyTorch is not: inputs, labels and θ in, loss, logits and their gradients out",
}
STEP = "step"
ANSWERING = tuple(mode for mode in MODES if mode != STEP)  # requests, where a step answers a trainer
FED = ("input", "factored")  # each run may bring another adapter
BESIDE = {"input": (".onnx_adapter",), "factored": (".expander.onnx", ".onnx_adapter"), "step": (".safetensors",)}
"""The suffixes of the files beside a graph."""


@dataclass(frozen=True)
class Form:
    """How a graph is written, by what the runtimes that it is for lack.

    ``required``  the adapter's inputs have no default: onnxruntime-node, onnxruntime-web and OpenVINO know no optional inputs
    ``inline``    there are no local functions, and the index is stored: OpenVINO knows no functions, and computes int64 in 32 bits
    ``marked``    the .onnx_adapter holds the mark by which a graph refuses what does not belong to it; graphs of other tools have
                  no input for it, and refuse it
    """

    required: bool = False
    inline: bool = False
    marked: bool = True

    def check(self, mode: str) -> None:
        """Raises ``UniLoraError`` where the form does not apply to the mode."""
        if self.required and mode not in (*FED, "bank", STEP):  # a step requires them in any form
            raise UniLoraError(
                f"--required-inputs is for adapters that are fed, and the mode {mode} holds its own; give --mode input, factored or bank"
            )
        if not self.marked and mode not in FED:
            raise UniLoraError(
                f"--unmarked is for the .onnx_adapter of --mode input and factored; the mode {mode} writes none"
            )


PLAIN = Form()
