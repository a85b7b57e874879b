"""Which form each part of a convolution takes: a table by shapes, dtype and platform only.

Nothing is timed at run time, so that the same options give the same bits.
``python -m benchmarks.lowering`` measures all forms and names the shapes where a rule is not the
best choice.
"""

import math
from typing import Literal

import jax.numpy as jnp

from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import winograd

Part = Literal["forward", "input_gradient", "kernel_gradient"]


def choose(
  part: Part,
  platform: str,
  dtype: str,
  geometry: Geometry,
  batch: int,
  inputs: int,
  outputs: int,
  per_client: bool,
) -> str:
  """Returns the name of the form, from ``lowerings.FORMS``.

  Args:
    part: the convolution itself or one of its gradients.
    platform: ``'cpu'``, or ``'gpu'`` or another accelerator.
    dtype: name of the dtype of images and kernel.
    geometry: sizes along rows and columns.
    batch: number of images, of one client.
    inputs: channels of the input.
    outputs: channels of the output.
    per_client: whether vmap runs the part for many clients at once, each with a kernel (or, for the
      kernel gradient, images) of its own.
  """
  if platform == "cpu":
    return _on_cpu(part, dtype, geometry, batch, inputs, outputs)
  return _per_client(dtype, geometry, batch, inputs, outputs) if per_client else "xla"


# Milliseconds of kernel gradients on a CPU: one core of two busy ones, AMD EPYC, jax 0.10.2.
#
#   image, channels, kernel          images   canonical   windows
#   32x32, 3 to 6, 5x5, valid            64         6.7       1.4
#   32x32, 3 to 16, 5x5, valid           64         4.4       3.3
#   28x28, 1 to 32, 5x5                  64         2.2       2.2
#   28x28, 1 to 6, 5x5                   64         0.7       0.8
#   32x32, 3 to 32, 3x3                  64         5.1       6.3
#   32x32, 3 to 64, 3x3                  64        23.8      12.2
#   32x32, 64 to 64, 3x3                 32        59.4      37.0
#   32x32, 64 to 64, 3x3                 10         8.9      10.7
#   16x16, 128 to 128, 3x3               32        36.3      31.3
#   16x16, 64 to 192, 1x1                32         6.9       3.9
#   8x8, 256 to 256, 3x3                 32        27.4      29.0
#
# Milliseconds of other parts for which another form than the canonical one is faster; 32 images.
#
#   image, channels, kernel, part                            canonical   patches
#   14x14, 6 to 16, 5x5, valid, input gradient                     0.5       0.3
#   8x8, 64 to 64, 3x3, input gradient                             1.4       1.0
#   8x8, 256 to 256, 3x3, input gradient                          14.9      15.7
#   4x4, 512 to 512, 3x3, input gradient                          18.5      13.7
#   32x32, 64 to 128, 3x3, stride 2, input gradient               14.6       8.7
#   16x16, 32 to 64, 3x3, stride 2, input gradient                 1.1       0.6
#   16x16, 32 to 64, 3x3, stride 2, kernel gradient                0.8       1.0
#   8x8, 256 to 512, 3x3, stride 2, kernel gradient               10.0       7.3
#   32x32, 64 to 128, 1x1, stride 2, all three                     9.6       4.0

# Milliseconds of winograd on a CPU, beside the form that would be chosen otherwise; 32 images, 3x3.
#
#   image, channels      forward       input gradient   kernel gradient
#   32x32, 64 to 64      25.2   22.7      25.2   23.0      32.0   33.9
#   16x16, 128 to 128    23.4   16.4      23.5   16.7      26.7   21.7
#   8x8, 256 to 256      23.4   15.5      24.2   16.2      26.1   18.4
#   4x4, 512 to 512      24.2   15.1      24.3   16.1      27.5   15.5
#   16x16, 96 to 128     17.0   12.8      17.6   13.4      21.5   16.5
#   8x8, 64 to 64         1.5    1.4       2.1    1.4       1.7    2.1
#   16x16, 128 to 32      6.5    8.3       6.4    5.3       8.6   11.9
#   28x28, 64 to 192     56.9   35.0      57.4   68.1      63.8   55.0

# Transforming the kernel takes as long as winograd saves in so many tiles of 2x2 outputs.
_ENOUGH_TILES = 40

# The tiles of an image, which are 4 times its bytes, do not fit the cache if they take more.
_LARGEST_TILES = 2**21

# The canonical form transposes x and dy, which is slow if they leave the cache: so many bytes.
_LARGE = 2**23


def _on_cpu(
  part: Part, dtype: str, geometry: Geometry, batch: int, inputs: int, outputs: int
) -> str:
  """Returns the form of a part on a CPU."""
  taps, strided = math.prod(geometry.kernel), geometry.strides != (1, 1)
  if taps == 1 and strided:
    return "patches"
  if dtype == "float32" and _suits_winograd(part, geometry, batch, inputs, outputs):
    return "winograd"
  if part == "forward":
    return "canonical"
  if part == "input_gradient":
    few = 4 < inputs <= 8 and taps >= 25
    small = math.prod(geometry.image) <= (64 if inputs <= 64 else 16)
    return "patches" if strided or few or small else "canonical"
  if strided and inputs >= 128:
    return "patches"
  pixels = math.prod(geometry.image) * inputs + math.prod(geometry.output) * outputs
  size = batch * pixels * jnp.dtype(dtype).itemsize
  if taps == 1:
    windows = True  # which are the pixels of x as they lie
  elif inputs <= 4:
    windows = size >= 2 * _LARGE or (taps >= 25 and inputs > 1)
  else:
    windows = size >= _LARGE
  return "windows" if windows else "canonical"


def _suits_winograd(part: Part, geometry: Geometry, batch: int, inputs: int, outputs: int) -> bool:
  """Whether winograd is the fastest form of a part in float32 on a CPU."""
  if not winograd.applies(geometry) or min(geometry.output) < 4:
    return False
  if min(inputs, outputs) < (96 if part == "kernel_gradient" else 64):
    return False
  channels = outputs if part == "input_gradient" else inputs
  tiles = math.prod(-(-size // 2) for size in geometry.output)
  return batch * tiles >= _ENOUGH_TILES and 16 * tiles * channels * 4 <= _LARGEST_TILES


# TFLOP/s of convolutions with one kernel per client on an accelerator: forward and both gradients,
# 3x3, 32 clients of 64 images, NVIDIA H100, jax 0.11.2. One kernel for all clients runs at 227 to
# 954 as XLA's own.
#
#   image, channels              dtype      xla: grouped   patches   one by one
#   32x32, 64 to 64              bfloat16            154        99          141
#   16x16, 128 to 128            bfloat16            321       215          158
#   4x4, 512 to 512              bfloat16            296       602          161
#   32x32, 64 to 128, stride 2   bfloat16             45       155           77
#   16x16, 128 to 128            float32             125       117          134
#
# These are the figures of an H100; for other accelerators, TPUs included, they are a guess.

# Patches are written and read once for all output channels: their rate is proportional to these
# (1.6 TFLOP/s for each in bfloat16, 0.9 in float32), and meets the other forms' at about 192.
_MANY_OUTPUTS = 192

# Below, a convolution is too short to hide that another one is started for each client: from the
# row in float32, which has 5e9 per part. Without a figure: other shapes in float32.
_FILLS_DEVICE = 4e9

# A client's patches take no more memory than this, 1% of what clients may use on a GPU of 80 GB.
_LARGEST_PATCHES = 2**28


def _per_client(dtype: str, geometry: Geometry, batch: int, inputs: int, outputs: int) -> str:
  """Returns the form of a part that an accelerator runs for many clients at once."""
  taps, windows = math.prod(geometry.kernel), batch * math.prod(geometry.output)
  patches = windows * taps * inputs
  if taps == 1:
    return "patches"  # which are the images: a batched matrix product
  # Tensor cores need channels in multiples of 8. XLA pads bfloat16 matrix products to them, but not
  # grouped convolutions. Patches of few input channels are small; there is no figure for these.
  wins = geometry.strides != (1, 1) or inputs % 8 or outputs >= _MANY_OUTPUTS
  if wins and patches * jnp.dtype(dtype).itemsize <= _LARGEST_PATCHES:
    return "patches"
  if dtype == "float32" and 2 * patches * outputs >= _FILLS_DEVICE:
    return "one_by_one"
  return "xla"
