"""
Error bars
==========

How far off is a reconstruction, where nobody knows the ground truth? A bootstrap measures the reconstruction again with
moved masks, reconstructs it, and compares. It does not show errors that all of these reconstructions share.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure
from ei.datasets import DeadLeaves, image_of, make_loader
from ei.evaluation import bootstrap
from ei.models import UNet, Unrolled
from ei.physics import Inpainting
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1.4 minutes on one core
size, epochs, n_images, draws = (16, 1, 20, 20) if short else (48, 7, 200, 40)

# %%
# EI learns to fill 30 % of the pixels, as in the example of inpainting, in half as many steps.
physics = Inpainting(size, size, mask_rate=0.3)
torch.manual_seed(0)
f = Unrolled(UNet(3, 3, base_channels=16, norm="none"), physics, iterations=1, cg_steps=1)
optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=8e-3)}
trainer = Trainer(f, physics, Shift(1), EIClosure(alpha=1, frozen_targets=True), optimizers, epochs=epochs,
                  schedule=one_cycle_schedule(epochs), clip_norm=0.01, out=False, progress=not short)  # fmt: skip
trainer.fit(make_loader(DeadLeaves("train", size, n_images), batch_size=1))

# %%
# The estimated mean squared error of each test image beside the true one, which the bootstrap does not use.
test = DeadLeaves("test", size, n_images)
x = torch.cat([image_of(test[index]) for index in range(len(test))])
result = bootstrap(f, physics, Shift(1), physics.A(x), draws=draws, generator=torch.Generator().manual_seed(0))
true = (result.x - x).square().flatten(1).mean(1)
correlation = torch.corrcoef(torch.stack([result.mse, true]))[0, 1]
print(f"true mean squared error / estimated: {true.mean() / result.mse.mean():.2f}; correlation {correlation:.2f}")

# %%
# Left: where the error is large, and where the bootstrap expects it (root mean squares over the channels, one scale).
# Right: a point for each test image; on the line the estimate is right. Calibration takes out a common factor.
error, estimated = (image.square().mean(0).sqrt() for image in (result.x[0] - x[0], result.rmse[0]))
figure, axes = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained")
axes[0].imshow(result.x[0].clamp(0, 1).permute(1, 2, 0).numpy())
for ax, image in zip(axes[1:], (error, estimated), strict=False):
    ax.imshow(image.numpy(), cmap="magma", vmin=0, vmax=0.1)
axes[3].scatter(1e3 * result.mse, 1e3 * true, s=4)
axes[3].axline((0, 0), slope=1, color="black", linewidth=1)
axes[3].set(xlabel="estimated, x 1000", ylabel="true, x 1000", title="mean squared error")
for ax, title in zip(axes[:3], ("reconstruction", "its error", "estimated error"), strict=True):
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
