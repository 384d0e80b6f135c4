"""diffusers: a U-Net learns to see the noise in one picture; its folder holds the base as it was, and the adapter beside it."""

import torch
from diffusers import DDPMScheduler, UNet2DModel

from backends.torch import attach, load_adapter


def base() -> UNet2DModel:
    """A small random U-Net, the same each time; yours comes by from_pretrained."""
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    torch.nn.init.normal_(model.conv_out.weight, std=0.2)  # at zero, nothing before it would get a gradient
    return model


unet = attach(base(), rank=4, d=2000, seed=0, targets=("to_q", "to_k", "to_v", "conv1", "conv2"))
noise_of = DDPMScheduler(num_train_timesteps=100)
pictures = torch.eye(8).expand(16, 1, 8, 8) * 2 - 1
optimizer = torch.optim.Adam([unet.unilora.theta], lr=2e-2)
losses = []
for _ in range(100):
    noise, times = torch.randn_like(pictures), torch.randint(0, 100, (16,))
    seen = unet(noise_of.add_noise(pictures, noise, times), times).sample
    loss = torch.nn.functional.mse_loss(seen, noise)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(f"loss {sum(losses[:10]) / 10:.2f} in the first ten steps, {sum(losses[-10:]) / 10:.2f} in the last ten")

unet.save_pretrained("unet")
again = load_adapter(base(), "unet")
with torch.no_grad():
    same = torch.equal(again(pictures, 5).sample, unet(pictures, 5).sample)
print("a fresh U-Net with the folder's adapter answers the same:", same)
