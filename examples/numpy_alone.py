"""NumPy alone: make an adapter's file, read it, rebuild its weights and merge them, without any framework."""

import numpy as np

from unilora_spec import Adapter, LayerMap, Projection, Segment, load_adapter, save_adapter

# A file as training leaves it: which weights, of which shapes and ranks, and the trained vector θ.
layers = LayerMap(
    [
        Segment("layer.0.query.weight", out_features=64, in_features=48, rank=4),
        Segment("layer.0.value.weight", out_features=32, in_features=48, rank=4),
    ],
    alpha=8,
)
projection = Projection("balanced", D=layers.D, d=100, seed=42)
theta = np.random.default_rng(0).normal(size=100).astype(np.float32)
size = save_adapter(Adapter(projection, layers, theta), "adapter.safetensors")
print(f"adapter.safetensors has {size} bytes: d = {projection.d} numbers for D = {projection.D} entries of A and B")

# And from here on what a program does that has the file and the base's weights.
adapter = load_adapter("adapter.safetensors")
for segment, A, B in adapter.factors():
    print(f"{segment.name}: A {A.shape}, B {B.shape}")

weights = {
    "layer.0.query.weight": np.zeros((64, 48), np.float32),
    "layer.0.value.weight": np.zeros((32, 48), np.float32),
}
adapter.merge(weights)  # W + s·B·A, in place
for segment, delta in adapter.delta_weights():
    print(
        f"{segment.name}: ΔW of rank {np.linalg.matrix_rank(delta)}, merged:", np.allclose(weights[segment.name], delta)
    )

print("entry 0 of θ_D is θ[j] / √n_j of column j =", projection.index(0, 1)[0])
