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


# Milliseconds on a CPU: one core, beside another busy one, of an AMD EPYC with AVX-512, jax 0.10.2.
#
#   kernel gradients                     images   canonical   windows   patches   winograd
#   32x32, 3 to 6, 5x5, valid                64        6.7       1.4
#   28x28, 1 to 20, 5x5, valid               32        0.7       0.4
#   32x32, 3 to 32, 3x3, valid               32        1.4       1.0
#   32x32, 3 to 16, 3x3                      32        0.7       1.6
#   32x32, 3 to 32, 5x5                      32        2.0       4.0
#   32x32, 3 to 64, 5x5                      32        5.2      10.5
#   32x32, 3 to 64, 3x3                      64        6.3      10.9
#   32x32, 16 to 16, 3x3                     32       2.0       2.9
#   32x32, 16 to 16, 3x3                     10       1.9       0.9
#   28x28, 1 to 6, 5x5                       10      0.22      0.10
#   16x16, 32 to 32, 3x3                     10      0.52      0.76
#   32x32, 64 to 64, 3x3                     32                 32.0                33.9
#   32x32, 64 to 64, 3x3                     10        8.9      10.7
#   16x16, 128 to 128, 3x3                   32                 26.7                21.7
#   8x8, 256 to 256, 3x3                     32       26.1                          18.4
#   4x4, 512 to 512, 3x3                     32       27.5                          15.5
#   2x2, 128 to 256, 3x3                     32       0.74      0.81                0.53
#   16x16, 128 to 256, 3x3, stride 2         32       16.1      14.2      15.8
#   8x8, 256 to 512, 3x3, stride 2           32       16.3      14.9      12.3
#   4x4, 256 to 64, 1x1                      32       0.21      0.30      0.19
#   16x16, 128 to 512, 1x1                   32       51.1      24.2      15.1
#   16x16, 512 to 128, 1x1                   32       47.1      14.4      35.2
#
#   input gradients
#   28x28, 1 to 32, 5x5                      32        2.4                 0.9
#   32x32, 3 to 6, 5x5, valid                32        1.9                 1.5
#   32x32, 3 to 32, 5x5                      32        2.8                 3.5
#   32x32, 3 to 32, 3x3, valid               32        5.9                 1.2
#   12x12, 20 to 50, 5x5, valid              32        5.0                 1.8
#   8x8, 32 to 64, 5x5                       32        1.9                 2.5
#   8x8, 64 to 64, 3x3                       32        2.1                 1.4       1.4
#   1x1, 192 to 384, 3x3                     32        0.2                 1.0
#   32x32, 64 to 64, 3x3                     32       25.2                          23.0
#   28x28, 64 to 192, 3x3                    32       57.4                          68.1
#   30x30, 32 to 64, 3x3, valid              32       13.5                          14.5
#   16x16, 128 to 128, 3x3                   32       23.5                          16.7
#   8x8, 256 to 256, 3x3                     32       24.2                          16.2
#   2x2, 128 to 256, 3x3                     32       1.04                0.73       0.60
#   32x32, 64 to 128, 3x3, stride 2          32       15.6                17.0
#   8x8, 256 to 512, 3x3, stride 2           32       15.6                13.0
#
#   forward, of one input channel: 28x28, 1 to 6, 5x5: canonical 0.23, taps 0.15; 8x8, 1 to 32, 3x3:
#   0.026, 0.012; 28x28, 1 to 32, 5x5: taps are slower
#
#   forward
#   30x30, 32 to 64, 3x3, valid              32       13.8                43.4       9.7
#   28x28, 64 to 192, 3x3                    32       56.9                          35.0
#   16x16, 128 to 128, 3x3                   32       23.4                          16.4
#   16x16, 128 to 32, 3x3                    32        6.5                           8.3
#   4x4, 512 to 512, 3x3                     32       24.2                          15.1
#   2x2, 128 to 256, 3x3                     32       0.79                0.75       0.51
#   4x4, 192 to 16, 1x1                      32       0.04                0.03

# Transforming the kernel takes as long as winograd saves in so many tiles of 2x2 outputs.
_ENOUGH_TILES = 32

# The tiles of an image, which are 4 times its bytes, do not fit the cache if they take more.
_LARGEST_TILES = 2**21

# The canonical form transposes x and dy, which is slow if they leave the cache: so many bytes. And
# it sums over the images, of which it needs so many to be fast with few output channels.
_LARGE, _MANY_IMAGES = 2**23, 16


def _on_cpu(
  part: Part, dtype: str, geometry: Geometry, batch: int, inputs: int, outputs: int
) -> str:
  """Returns the form of a part on a CPU."""
  taps, pixels = math.prod(geometry.kernel), math.prod(geometry.image)
  strided, padded = geometry.strides != (1, 1), any(map(any, geometry.pads))
  values = batch * (pixels * inputs + math.prod(geometry.output) * outputs)
  large = values * jnp.dtype(dtype).itemsize >= _LARGE
  if taps == 1:  # one matrix product, as patches are the pixels of x; of two orders in the gradient
    by_windows = part == "kernel_gradient" and large and inputs > outputs
    return "windows" if by_windows else "patches"
  if dtype == "float32" and _suits_winograd(part, geometry, batch, inputs, outputs):
    return "winograd"
  if part == "forward":
    return "taps" if inputs == 1 and (taps <= 9 or outputs <= 8) else "canonical"
  if part == "input_gradient":
    if inputs <= 4 and not strided:
      by_patches = True
    elif taps >= 25:  # without padding, the gradient has much of it in the canonical form
      by_patches = not padded
    elif strided:
      by_patches = pixels <= 256
    else:
      by_patches = 1 < pixels <= (64 if inputs <= 64 else 16)
    return "patches" if by_patches else "canonical"
  if batch < _MANY_IMAGES and outputs <= 16:
    return "windows"
  if inputs <= 4:
    return "canonical" if padded else "windows"
  if strided and inputs >= 64:
    return "patches" if pixels <= 64 else "windows"
  return "windows" if large else "canonical"


def _suits_winograd(part: Part, geometry: Geometry, batch: int, inputs: int, outputs: int) -> bool:
  """Whether winograd is the fastest form of a part in float32 on a CPU."""
  if not winograd.applies(geometry) or min(geometry.output) < 2:
    return False
  channels, others = (outputs, inputs) if part == "input_gradient" else (inputs, outputs)
  least = (96, 96) if part == "kernel_gradient" else (32, 64)
  if channels < least[0] or others < least[1]:
    return False
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
