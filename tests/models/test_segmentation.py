"""The fully convolutional network against PyTorch with the same weights."""

import jax
import pytest
import torch
import torch.nn.functional as F
from helpers.torch_units import assert_close, channels_first, images, randomized, shapes

from fedjax_norm import models, norm
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode

SHAPE = (8, 12, 2)


def test_equals_pytorch_at_every_pixel():
  model = models.create("fcn", norm.create("bn"), 3, SHAPE)
  x, variables = images(2, *SHAPE), randomized(shapes(model, SHAPE))
  params = jax.tree.map(torch.tensor, variables["params"])

  @jax.jit
  def run(variables, x):
    mode, mutable = Mode(train=True), ["batch_stats"]
    activation, _ = model.apply(variables, x, mode, 0, 3, mutable=mutable)
    return activation, model.apply(variables, activation, mode, 3, mutable=mutable)[0]

  activation, ours = run(variables, x)

  y = channels_first(x)
  for name in ("down1", "down2", "down3", "up1", "up2"):
    if name.startswith("up"):
      y = F.interpolate(y, scale_factor=2, mode="nearest")
    kernel, affine = params[f"{name}_conv"]["kernel"].permute(3, 2, 0, 1), params[f"{name}_norm"]
    if name in ("down2", "down3"):  # our SAME padding at stride 2 is only at the end
      y = F.conv2d(F.pad(y, (0, 1, 0, 1)), kernel, stride=2)
    else:
      y = F.conv2d(y, kernel, padding=1)
    y = F.relu(F.batch_norm(y, None, None, affine["scale"], affine["bias"], training=True))
  head = params["classes"]
  y = F.conv2d(y, head["kernel"].permute(3, 2, 0, 1), head["bias"])
  assert ours.shape == (2, 8, 12, 3)
  assert_close(ours, y.permute(0, 2, 3, 1))
  assert activation.shape == (2, 2, 3, 128)


def test_sizes_that_are_not_multiples_of_4_are_rejected():
  with pytest.raises(UserError, match="sides are multiples of 4; these are 8x6, so resize them"):
    models.create("fcn", norm.create("bn"), 3, (8, 6, 1))
