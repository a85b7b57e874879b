"""Images as PNG files in memory."""

import io

import numpy as np
from PIL import Image


def encoded(pixels: np.ndarray) -> io.BytesIO:
  """Returns an image [H, W, 3] or [H, W], uint8, as a PNG file."""
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, "PNG")
  stream.seek(0)
  return stream
