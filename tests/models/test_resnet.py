"""ResNets against torch, with batch norm and with Fixup."""

import functools

import pytest
import torch.nn.functional as F
from helpers.model_runs import (
  BN,
  FIXUP,
  assert_equals_torch,
  images,
  tensor,
  torch_conv,
  torch_dense,
  torch_norm,
)

from fedjax_norm.models.resnet import ResNet


def torch_resnet(variables, x, model: ResNet):
  """A ResNet according to the papers of ResNet and Fixup."""
  params = variables["params"]

  def scalars(scope):
    """Returns an iterator over the offsets of a scope, and its multiplier."""
    values = [scope[f"Scalar_{i}"] for i in range(10) if f"Scalar_{i}" in scope]
    offsets = iter([tensor(s["offset"]) for s in values if "offset" in s])
    multiplier = [tensor(s["multiplier"]) for s in values if "multiplier" in s]
    return (lambda: next(offsets, 0.0)), (multiplier[0] if multiplier else 1.0)

  offset, _ = scalars(params)
  x = images(x)
  if model.stem == "imagenet":
    x = torch_conv(x, params["Conv_0"], 2, [3] * 4)
  else:
    x = torch_conv(x, params["Conv_0"])
  x = F.relu(torch_norm(x, variables, "Norm_0") + offset())
  if model.stem == "imagenet":
    x = F.max_pool2d(x, 3, 2, 1)
  index = 0
  for stage, blocks in enumerate(model.blocks):
    for block in range(blocks):
      stride = 2 if stage > 0 and block == 0 else 1
      scope, path = params[f"Block_{index}"], (f"Block_{index}",)
      before, multiplier = scalars(scope)
      norm = functools.partial(torch_norm, variables=variables, path=path)
      strides = [1, stride, 1] if model.bottleneck else [stride, 1]
      biased = y = x + before()
      for i, s in enumerate(strides):
        y = norm(torch_conv(y, scope[f"Conv_{i}"], s), name=f"Norm_{i}")
        if i < len(strides) - 1:
          y = F.relu(y + before()) + before()
      y = y * multiplier + before()
      if "shortcut" in scope:
        x = norm(torch_conv(biased, scope["shortcut"], stride, [0] * 4), name="shortcut_norm")
      elif x.shape != y.shape:
        x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
      x = F.relu(x + y)
      index += 1
  return torch_dense(x.mean((2, 3)) + offset(), params["Dense_0"])


RESNETS = {
  "projection": ResNet((1, 1), 8, BN, 5),
  "bottleneck, imagenet": ResNet((1, 1), 4, BN, 5, bottleneck=True, stem="imagenet"),
  "fixup bottleneck": ResNet((1, 1), 2, FIXUP, 5, bottleneck=True),
  "fixup, zero channels": ResNet((1, 1), 4, FIXUP, 5, projection=False),
}


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_equal_torch(name):
  model = RESNETS[name]
  size = (18, 16, 3) if model.stem == "imagenet" else (8, 7, 3)
  assert_equals_torch(model, functools.partial(torch_resnet, model=model), size)
