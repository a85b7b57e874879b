"""Counts the floating-point operations of training by hand, from the shapes of the models."""

from benchmarks.workloads import Workload


def per_round(workload: Workload) -> float:
  """Returns the operations of a round's local training, in convolutions and dense layers only."""
  height, width, channels = workload.data.image_shape
  macs, stem = forward_macs(workload.model, height, width, channels)
  # Forward, kernel gradient and input gradient cost the same; the stem has no input gradient.
  return 2.0 * (3 * macs - stem) * workload.examples


def forward_macs(model: str, height: int, width: int, channels: int) -> tuple[int, int]:
  """Returns the multiply-adds of the forward pass of an image: (total, first convolution).

  Args:
    model: name of a benchmark model, with ten classes.
    height: height of an image in pixels, divisible by the model's strides.
    width: width of an image in pixels, likewise divisible.
    channels: channels of an image.

  Raises:
    ValueError: the model is unknown.
  """
  match model:
    case "tiny":
      layers = [_conv(height, width, channels, 32)]
      layers += [_conv(height // 2, width // 2, 32, 64), _conv(height // 2, width // 2, 64, 64)]
      layers += [64 * 10]
    case "cnn":
      layers = [_conv(height - 2, width - 2, channels, 32), _conv(height - 4, width - 4, 32, 64)]
      layers += [(height - 4) // 2 * ((width - 4) // 2) * 64 * 128, 128 * 10]
    case "niid":
      height, width = (height - 4) // 2, (width - 4) // 2
      layers = [_conv(2 * height, 2 * width, channels, 6, 5)]
      layers += [_conv(height - 4, width - 4, 6, 16, 5)]
      layers += [(height - 4) // 2 * ((width - 4) // 2) * 16 * 120, 120 * 84, 84 * 10]
    case "resnet20":
      layers = _resnet(height, width, channels, (3, 3, 3), 16, projection=False)
    case "resnet18":
      layers = _resnet(height, width, channels, (2, 2, 2, 2), 64, projection=True)
    case unknown:
      raise ValueError(f"there is no model {unknown!r}.")
  return sum(layers), layers[0]


def _conv(height: int, width: int, inputs: int, outputs: int, size: int = 3) -> int:
  """Returns the multiply-adds of a convolution with an output of this height and width."""
  return height * width * size * size * inputs * outputs


def _resnet(height, width, channels, stages, features, projection) -> list[int]:
  layers, inputs = [_conv(height, width, channels, features)], features
  for stage, blocks in enumerate(stages):
    outputs = features * 2**stage
    for block in range(blocks):
      if stage and not block:
        height, width = height // 2, width // 2
      layers += [_conv(height, width, inputs, outputs), _conv(height, width, outputs, outputs)]
      if projection and inputs != outputs:
        layers.append(_conv(height, width, inputs, outputs, 1))
      inputs = outputs
  return [*layers, inputs * 10]
