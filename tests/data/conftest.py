"""Images that several tests of data sources read."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """A folder of 220 images of 2x2 pixels; the value of image i is i."""
  folder = tmp_path_factory.mktemp("pictures")
  for i in range(220):
    Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / f"{i}.png")
  return folder
