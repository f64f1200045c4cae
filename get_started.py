"""Equivariant Imaging on one screen: learn to inpaint from masked images alone, then evaluate on test images."""

import torch

from ei.closure import EIClosure
from ei.datasets import DeadLeaves, make_loader
from ei.evaluation import report
from ei.models import UNet, Unrolled
from ei.physics import Inpainting
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import Shift

torch.manual_seed(0)
size, epochs = 64, 13

# Your data: any data set of images; Urban100 is CVDB("dataset/Urban100", "train") and "test", with size = 256.
train, test = DeadLeaves("train", size, 200), DeadLeaves("test", size, 200)
# Your operator: anything with A(x), A_dagger(y); for CT(size, 50) use EllipsePhantoms, UNet(1, 1), Rotate(5), alpha=25.
physics = Inpainting(size, size, mask_rate=0.3)
# Your group: what the set of images is invariant to, for example Rotate(5).
transform = Shift(n_trans=1)

# f(y): a network after A^+ y, then back to the data. The paper's: Reconstructor(UNet(3, 3), physics), net(A_dagger y).
f = Unrolled(UNet(3, 3, base_channels=16, norm="none"), physics, iterations=1, cg_steps=1)
# ||A x1 - y||^2 + alpha ||f(A T x1) - T x1||^2, x1 = f(y): no ground truth. The paper's has gradients through x1, too.
closure = EIClosure(alpha=1, frozen_targets=True)
optimizer = torch.optim.Adam(f.net.parameters(), lr=8e-3)
schedule = one_cycle_schedule(epochs)
trainer = Trainer(f, physics, transform, closure, {"total": optimizer}, epochs=epochs, schedule=schedule, task="demo",
                  clip_norm=0.01)  # fmt: skip

trainer.fit(make_loader(train, batch_size=1))
report(f, physics, test, trainer.folder, name="EI")
