"""A module of your own: adapt two layers of a small network, train, save, and put the file on a fresh copy."""

import torch
from torch import nn

from backends.torch import attach, load_adapter

torch.manual_seed(0)
images = torch.randn(64, 3, 16, 16)
labels = (images[:, 0].mean((1, 2)) > images[:, 1].mean((1, 2))).long()  # which of two channels is brighter


def network() -> nn.Module:
    """The same network each time, in place of a pretrained one."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14 * 14, 2))


net = attach(network(), rank=2, d=500, seed=0, targets=["0", "3"])
trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
print(
    f"trained: {sum(parameter.numel() for parameter in trained)} of {sum(p.numel() for p in net.parameters())} numbers"
)

optimizer = torch.optim.Adam(trained, lr=3e-2)
for step in range(40):
    loss = nn.functional.cross_entropy(net(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step in (0, 39):
        print(f"step {step + 1}: loss {loss.item():.2f}")

print(f"net.safetensors has {net.save_adapter('net.safetensors'):,} bytes")
with torch.no_grad():
    again = load_adapter(network(), "net.safetensors")(images)
    print("a fresh network with the file answers the same:", torch.equal(again, net(images)))
