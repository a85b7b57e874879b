"""Decoding of image files."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin, features

from fedjax_norm.data import image_decoding
from fedjax_norm.data.sources import registry as sources

# 32 x 48 pixels of six different blocks.
BLOCKS = np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3).repeat(16, 0).repeat(16, 1)
# EXIF orientation -> the function that makes the pixels upright.
UPRIGHT = {
  1: lambda x: x,
  2: np.fliplr,
  3: lambda x: np.rot90(x, 2),
  4: np.flipud,
  5: np.transpose,
  6: lambda x: np.rot90(x, -1),
  7: lambda x: np.rot90(np.transpose(x), 2),
  8: np.rot90,
}


def encoded(kind, orientation):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  stream = io.BytesIO()
  quality = {} if kind == "PNG" else {"quality": 100}
  Image.fromarray(BLOCKS).convert("RGB").save(stream, kind, exif=exif, **quality)
  return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_images_are_upright_as_viewers_show_them(monkeypatch, kind):
  if kind == "AVIF" and not features.check("avif"):
    pytest.skip("this Pillow does not know AVIF")
  for orientation, upright in UPRIGHT.items():
    content = encoded(kind, orientation)
    pixels = image_decoding.decode(io.BytesIO(content), "it", 1)[..., 0]
    np.testing.assert_allclose(pixels, upright(BLOCKS), atol=4)
    with monkeypatch.context() as patch:
      patch.setattr(Image.Image, "load", None)  # the header needs no pixels
      patch.setattr(PngImagePlugin.PngImageFile, "load", None)
      height, width, _ = image_decoding.header(io.BytesIO(content), "it")
    assert pixels.shape == (height, width)


def test_formats_of_plugins_are_images_if_the_plugin_is_installed(tmp_path, monkeypatch):
  path = tmp_path / "photo.heic"
  path.write_bytes(encoded("PNG", 1))
  assert not image_decoding.is_image(path)
  monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
  monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])  # as a plugin registers its reader
  assert image_decoding.is_image(path)


def test_damaged_metadata_do_not_change_the_pixels():
  stream = io.BytesIO()
  Image.fromarray(BLOCKS).save(stream, "PNG", exif=b"Exif\0\0no metadata at all")
  assert image_decoding.header(io.BytesIO(stream.getvalue()), "it") == (32, 48, 1)
  decoded = image_decoding.decode(io.BytesIO(stream.getvalue()), "it", 1)
  np.testing.assert_array_equal(decoded[..., 0], BLOCKS)


def test_rotated_photos_have_the_size_of_upright_ones(tmp_path):
  (tmp_path / "cat").mkdir()
  for i in range(4):
    (tmp_path / "cat" / f"{i}.jpg").write_bytes(encoded("JPEG", 6))
  Image.fromarray(np.rot90(BLOCKS, -1)).convert("RGB").save(tmp_path / "cat" / "4.jpg", quality=100)
  source = sources.load(f"folder:{tmp_path}")
  for image in (*source.train.images, *source.test.images):
    np.testing.assert_allclose(image[..., 0], np.rot90(BLOCKS, -1), atol=4)
