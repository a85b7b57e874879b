"""The models of the benchmarks in PyTorch, with the names of the exported parameters.

Images and kernels are mirrored in both directions: the exported models pad a convolution of stride
2 after the last row and column, which mirrored is the padding of 1 on all sides that a PyTorch user
writes. The results are the same, and no time is spent on other paddings.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import job as jobs
from benchmarks.peers.job import Job


def _norm(groups: int, channels: int) -> nn.Module:
  return nn.GroupNorm(groups, channels, eps=1e-5) if groups else nn.Identity()


def _conv(
  inputs: int, outputs: int, groups: int, stride: int = 1, padding: int = 1, size: int = 3
) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, size, stride, padding, bias=not groups)


class Tiny(nn.Module):
  """Three 3x3 convolutions (32, 64 at stride 2, 64), mean pool, dense."""

  def __init__(self, channels: int, num_classes: int, groups: int):
    super().__init__()
    self.Conv_0, self.Norm_0 = _conv(channels, 32, groups), _norm(groups, 32)
    self.Conv_1, self.Norm_1 = _conv(32, 64, groups, stride=2), _norm(groups, 64)
    self.Conv_2, self.Norm_2 = _conv(64, 64, groups), _norm(groups, 64)
    self.Dense_0 = nn.Linear(64, num_classes)

  def forward(self, x: Tensor) -> Tensor:
    """[N, C, H, W], mirrored -> logits."""
    x = functional.relu(self.Norm_0(self.Conv_0(x)))
    x = functional.relu(self.Norm_1(self.Conv_1(x)))
    x = functional.relu(self.Norm_2(self.Conv_2(x)))
    return self.Dense_0(x.mean((2, 3)))


class CNN(nn.Module):
  """Two 3x3 convolutions (32, 64), max pool 2, dropout, dense 128, dropout, dense."""

  def __init__(self, channels: int, num_classes: int, groups: int, size: tuple[int, int]):
    super().__init__()
    self.Conv_0, self.Norm_0 = _conv(channels, 32, groups, padding=0), _norm(groups, 32)
    self.Conv_1, self.Norm_1 = _conv(32, 64, groups, padding=0), _norm(groups, 64)
    self.flattened = ((size[0] - 4) // 2, (size[1] - 4) // 2, 64)
    self.Dense_0 = nn.Linear(int(np.prod(self.flattened)), 128)
    self.Dense_1 = nn.Linear(128, num_classes)
    self.dropout_0, self.dropout_1 = nn.Dropout(0.25), nn.Dropout(0.5)

  def forward(self, x: Tensor) -> Tensor:
    """[N, C, H, W], mirrored -> logits."""
    x = functional.relu(self.Norm_0(self.Conv_0(x)))
    x = functional.relu(self.Norm_1(self.Conv_1(x)))
    x = self.dropout_0(functional.max_pool2d(x, 2)).flatten(1)
    return self.Dense_1(self.dropout_1(functional.relu(self.Dense_0(x))))


class NIID(nn.Module):
  """NIID-Bench's network: 5x5 convolutions (6, 16) with max pools 2, dense 120, 84, output."""

  def __init__(self, channels: int, num_classes: int, groups: int, size: tuple[int, int]):
    super().__init__()
    self.Conv_0 = _conv(channels, 6, groups, padding=0, size=5)
    self.Conv_1 = _conv(6, 16, groups, padding=0, size=5)
    self.Norm_0, self.Norm_1 = _norm(groups, 6), _norm(groups, 16)
    self.flattened = (((size[0] - 4) // 2 - 4) // 2, ((size[1] - 4) // 2 - 4) // 2, 16)
    self.Dense_0 = nn.Linear(int(np.prod(self.flattened)), 120)
    self.Dense_1 = nn.Linear(120, 84)
    self.Dense_2 = nn.Linear(84, num_classes)

  def forward(self, x: Tensor) -> Tensor:
    """[N, C, H, W], mirrored, H and W divisible by 4 -> logits."""
    x = functional.max_pool2d(functional.relu(self.Norm_0(self.Conv_0(x))), 2)
    x = functional.max_pool2d(functional.relu(self.Norm_1(self.Conv_1(x))), 2).flatten(1)
    return self.Dense_2(functional.relu(self.Dense_1(functional.relu(self.Dense_0(x)))))


class Block(nn.Module):
  """Two 3x3 convolutions and a shortcut: 1x1, or strided with zero channels added."""

  def __init__(self, inputs: int, outputs: int, stride: int, groups: int, projection: bool):
    super().__init__()
    self.stride, self.lacking = stride, outputs - inputs
    self.Conv_0, self.Norm_0 = _conv(inputs, outputs, groups, stride), _norm(groups, outputs)
    self.Conv_1, self.Norm_1 = _conv(outputs, outputs, groups), _norm(groups, outputs)
    self.projects = projection and (stride > 1 or inputs != outputs)
    if self.projects:
      self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=not groups)
      self.shortcut_norm = _norm(groups, outputs)

  def forward(self, x: Tensor) -> Tensor:
    """[N, I, H, W] -> [N, O, H', W']."""
    y = functional.relu(self.Norm_0(self.Conv_0(x)))
    y = self.Norm_1(self.Conv_1(y))
    if self.stride > 1:
      # The last of each stride positions: of a mirrored image, the first.
      x = x[:, :, self.stride - 1 :: self.stride, self.stride - 1 :: self.stride]
    if self.projects:
      x = self.shortcut_norm(self.shortcut(x))
    elif self.lacking:
      x = functional.pad(x, (0, 0, 0, 0, 0, self.lacking))
    return functional.relu(x + y)


class ResNet(nn.Module):
  """A residual network for CIFAR: a 3x3 stem, stages of blocks, mean pool, dense."""

  def __init__(
    self,
    channels: int,
    num_classes: int,
    groups: int,
    stages: tuple[int, ...],
    features: int,
    projection: bool,
  ):
    super().__init__()
    self.Conv_0, self.Norm_0 = _conv(channels, features, groups), _norm(groups, features)
    self.depth, inputs = 0, features
    for stage, blocks in enumerate(stages):
      outputs = features * 2**stage
      for block in range(blocks):
        stride = 2 if stage and not block else 1
        self.add_module(f"Block_{self.depth}", Block(inputs, outputs, stride, groups, projection))
        self.depth, inputs = self.depth + 1, outputs
    self.Dense_0 = nn.Linear(inputs, num_classes)

  def forward(self, x: Tensor) -> Tensor:
    """[N, C, H, W], mirrored -> logits."""
    x = functional.relu(self.Norm_0(self.Conv_0(x)))
    for block in range(self.depth):
      x = self.get_submodule(f"Block_{block}")(x)
    return self.Dense_0(x.mean((2, 3)))


def network(job: Job, image_shape: tuple[int, ...]) -> nn.Module:
  """Returns the model of a job.

  Args:
    job: job with the name of the model.
    image_shape: (H, W, C), H and W even.
  """
  *size, channels = image_shape
  common = (channels, job.num_classes, job.groups)
  match job.model:
    case "tiny":
      return Tiny(*common)
    case "cnn":
      return CNN(*common, (size[0], size[1]))
    case "niid":
      return NIID(*common, (size[0], size[1]))
    case "resnet20":
      return ResNet(*common, (3, 3, 3), 16, projection=False)
    case "resnet18":
      return ResNet(*common, (2, 2, 2, 2), 64, projection=True)
    case unknown:
      raise ValueError(f"there is no model {unknown!r}.")


def build(job: Job, image_shape: tuple[int, ...], weights: dict[str, np.ndarray]) -> nn.Module:
  """Returns the model of a job with the exported parameters, given by path."""
  model = network(job, image_shape)
  left = dict(weights)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(_exported(model, name, parameter, left))
  if left:
    raise ValueError(f"the model has no place for {', '.join(sorted(left))}.")
  return model


def _exported(
  model: nn.Module, name: str, parameter: Tensor, left: dict[str, np.ndarray]
) -> Tensor:
  """Returns a parameter's exported values in PyTorch's order of axes."""
  module, _, kind = name.replace(".", "/").rpartition("/")
  if kind == "bias":
    values = left.pop(f"{module}/bias")
  elif parameter.ndim == 1:
    values = left.pop(f"{module}/scale")
  else:
    values = left.pop(f"{module}/kernel")
  if values.ndim == 4:
    values = values[::-1, ::-1].transpose(3, 2, 0, 1)
  elif values.ndim == 2:
    flattened = getattr(model, "flattened", ())
    if len(values) == np.prod(flattened, dtype=int):
      values = values.reshape(*flattened, -1)[::-1, ::-1].transpose(3, 2, 0, 1)
    else:
      values = values.T
  return torch.tensor(np.ascontiguousarray(values)).reshape(parameter.shape)


def load_images(job: Job) -> tuple[Tensor, tuple[int, ...]]:
  """Returns all training images of a job, mirrored, and the shape (H, W, C) of an image."""
  stored = jobs.array(job, "data/x_train", mapped=True)  # it is copied, and not held twice
  return mirrored(stored), stored.shape[1:]


def mirrored(stored: np.ndarray) -> Tensor:
  """Mirrors images [N, H, W, C] and returns them as [N, C, H, W], in the same type."""
  return torch.from_numpy(np.ascontiguousarray(stored[:, ::-1, ::-1].transpose(0, 3, 1, 2)))


def to_float(images: Tensor) -> Tensor:
  """Converts images to float32; uint8 is divided by 255."""
  return images.float() / 255 if images.dtype == torch.uint8 else images
