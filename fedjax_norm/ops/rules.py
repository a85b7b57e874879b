"""Which form each part of a convolution takes: a table by shapes, dtype and platform only.

Nothing is timed at run time, so that the same options give the same bits.
``python -m benchmarks.lowering`` measures all forms and names the shapes where a rule is not the
best choice.
"""

from typing import Literal

from fedjax_norm.ops.geometry import Geometry

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
  del part, dtype, geometry, batch, inputs, outputs, per_client
  return "canonical" if platform == "cpu" else "xla"
