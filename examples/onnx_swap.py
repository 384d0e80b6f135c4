"""ONNX Runtime: one graph of a network, and adapters that are fed to it as vectors, a kilobyte each."""

import numpy as np
import onnxruntime
import torch
from torch import nn

from backends.torch import attach
from export import export_onnx
from unilora_spec import load_adapter

torch.manual_seed(0)
base = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 4)).eval()
inputs = torch.randn(3, 64)

# Two adapters of one form: the same targets, rank, d and seed. Only θ differs; here it is drawn, not trained.
expected = {}
for name in ("a", "b"):
    net = attach(base, rank=4, d=256, seed=7, targets=["0", "2"])
    with torch.no_grad():
        net.unilora.theta.normal_(std=0.3)
        expected[name] = net(inputs).numpy()
    net.save_adapter(f"{name}.safetensors")
    net.detach()

export_onnx(base, load_adapter("a.safetensors"), {"input": inputs}, "swap.onnx", mode="input")
options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # it warns of each input that has a default, as θ has
session = onnxruntime.InferenceSession("swap.onnx", options)

for name in ("a", "b"):
    theta = load_adapter(f"{name}.safetensors").theta
    (answer,) = session.run(None, {"input": inputs.numpy(), "theta": theta})
    same = np.abs(answer - expected[name]).max() < 1e-5  # float32, sums in another order
    print(
        f"adapter {name}: {theta.nbytes:,} bytes fed, as PyTorch answers: {bool(same)}, first row {answer[0].round(2)}"
    )
