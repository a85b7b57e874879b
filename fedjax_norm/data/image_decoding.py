"""Decodes and resizes images on the host, with Pillow."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from fedjax_norm import host_memory
from fedjax_norm.data.process_local import ReadImages, lazy_zeros
from fedjax_norm.errors import UserError

Stream = str | os.PathLike | BinaryIO

_GRAY = ("1", "L", "LA")
_IDS = ("1", "L", "P", "I")  # and the "I;16" family: one integer for each pixel
_DEEP = ("I", "F")  # and the "I;16" family: more than 8 bits a channel

# A file with one of these suffixes counts as an image; some others do if their content has one of
# these formats. Pillow's other formats are films and documents, or cannot be recognized by their
# content. HEIF and JXL need plugins of Pillow.
_SUFFIXES = (
  ".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
  ".jpeg", ".jpg", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi",
  ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
_FORMATS = (
  "AVIF", "BMP", "DDS", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "JXL", "PCX", "PNG", "PPM", "PSD",
  "QOI", "SGI", "TIFF", "WEBP",
)  # fmt: skip

# EXIF orientation -> the transposition that makes the image upright.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_SWAPPED_SIDES = (5, 6, 7, 8)  # the orientations that exchange height and width


def is_image(path: Path) -> bool:
  """Returns whether a file is an image, by its suffix or by its content.

  The content decides for files without a suffix and for the rarer suffixes that Pillow or one of
  Pillow's plugins registers. Files with other suffixes do not count as images: raw photos and
  editors' backups have the content of an image but usually copy another file in the folder.
  """
  suffix = path.suffix.lower()
  if suffix in _SUFFIXES:
    return True
  if suffix and suffix not in Image.registered_extensions():
    return False
  Image.init()
  try:
    with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]):
      return True
  except Exception:  # Pillow's readers raise various errors for other content
    return False


def _orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation of an image that is not decoded yet; 1 is upright."""
  if image.format == "TIFF":
    return 1  # Pillow turns a TIFF image itself and reports the size of the upright image
  try:
    # The getexif of PNG images would decode the pixels to read the metadata behind them.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
  except Exception:  # the metadata are damaged, but the pixels may not be
    return 1


@contextlib.contextmanager
def allow_large() -> Iterator[None]:
  """Silences Pillow's warning of large images as a possible attack; the user chose these files.

  Python's filters of warnings belong to all threads, so only one thread may enter such a block.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    yield


def _open(stream: Stream, name: str) -> Image.Image:
  try:
    return Image.open(stream)
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UserError(
      f"{name} is not an image that can be read; replace or remove this file."
    ) from error


@allow_large()
def header(stream: Stream, name: str) -> tuple[int, int, int]:
  """Returns height, width and channels (1 or 3) of an image turned upright, without decoding it.

  Raises:
    UserError: the content is not an image, or it has more than 8 bits per channel.
  """
  with _open(stream, name) as image:
    if image.mode.split(";")[0] in _DEEP:
      raise UserError(f"{name} has more than 8 bits per channel; convert it to 8-bit pixels.")
    size = image.size if _orientation(image) in _SWAPPED_SIDES else image.size[::-1]
    return *size, 1 if image.mode in _GRAY else 3


def decode(stream: Stream, name: str, channels: int, size: int | None = None) -> np.ndarray:
  """Decodes one image as uint8, turned upright by its EXIF orientation.

  Several threads may call this function; ``allow_large`` silences a warning of Pillow.

  Args:
    stream: path or open file of an encoded image.
    name: name of the image in errors.
    channels: 1 (luminance) or 3 (RGB); an alpha channel is dropped.
    size: height and width in pixels to resize to, whatever the aspect ratio; None does not resize.

  Returns:
    [H, W, channels] uint8.

  Raises:
    UserError: the image is damaged.
  """
  with _open(stream, name) as image:
    upright = _UPRIGHT.get(_orientation(image))
    try:
      if "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise Pillow warns that it drops the transparency
      image = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f"{name} is a damaged image; replace or remove this file.") from error
    if upright is not None:
      image = image.transpose(upright)
    if size is not None and image.size != (size, size):
      image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
  return pixels[..., None] if channels == 1 else pixels


def decode_ids(stream: Stream, name: str) -> np.ndarray:
  """Decodes the integer that a mask has for each pixel, [H, W] uint8: gray, or index of a palette.

  Several threads may call this function; ``allow_large`` silences a warning of Pillow.

  Raises:
    UserError: the mask is damaged, has colours, or has an integer above 255.
  """
  with _open(stream, name) as image:
    if image.mode.split(";")[0] not in _IDS:
      raise UserError(
        f"{name} has colours ({image.mode}); a mask has one integer for each pixel, the number of"
        " its class, so save it as gray or with a palette."
      )
    tiles = getattr(image, "tile", [])
    stored = tiles[0][3] if tiles else ""
    try:
      image.load()
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f"{name} is a damaged image; replace or remove this file.") from error
    # Pillow stretches gray values of few bits to 0 ... 255.
    ids = np.asarray(image) // {"L;2": 85, "L;4": 17}.get(stored, 1)
  if ids.max() > np.iinfo(np.uint8).max:
    raise UserError(
      f"{name} has the id {ids.max()}; number the classes from 0 to 254, with 255 for pixels that"
      " do not count."
    )
  return ids.astype(np.uint8)


def different_sizes(
  name: str, shape: tuple[int, ...], first: str, first_shape: tuple[int, ...]
) -> UserError:
  """Returns the error for an image that differs from the first one in height or width."""
  return UserError(
    f"{name} has {shape[0]}x{shape[1]} pixels, but {first} has {first_shape[0]}x{first_shape[1]};"
    " give an image size (--image_size) to which all are resized."
  )


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """Resizes uint8 or float32 images [N, H, W, C] bilinearly to [N, size, size, C], same dtype."""
  if images.shape[1:3] == (size, size):
    return images
  count, _, _, channels = images.shape
  _check_memory(count, size, channels * images.dtype.itemsize)
  result = np.empty((count, size, size, channels), images.dtype)
  for i, c in np.ndindex(count, channels):
    # One channel at a time, because Pillow has no float image of several channels.
    plane = Image.fromarray(np.ascontiguousarray(images[i, :, :, c]))
    result[i, :, :, c] = plane.resize((size, size), Image.Resampling.BILINEAR)
  return result


def resize_classes(classes: np.ndarray, size: int | None) -> np.ndarray:
  """Resizes pixel classes [N, H, W] to [N, size, size] by the nearest pixel, if `size` is given."""
  if size is None:
    return classes
  _check_memory(len(classes), size, classes.dtype.itemsize)
  rows, columns = (((np.arange(size) + 0.5) * n / size).astype(int) for n in classes.shape[1:3])
  return classes[:, rows[:, None], columns]


def _check_memory(count: int, size: int, pixel_bytes: int) -> None:
  what = f"resizing {count:,} images to {size}x{size}"
  host_memory.check(count * size**2 * pixel_bytes, what, "choose a smaller image size")


def reader(images: np.ndarray, size: int | None) -> ReadImages:
  """Returns the function that reads from an array of images, resized to `size` unless it is None.

  For selected ids the function returns a copy, so that the memory of all images can be freed.
  """

  def read(ids: np.ndarray | None) -> np.ndarray:
    selected = images if ids is None else images[ids]
    selected = selected if size is None else resize(selected, size)
    if ids is None:
      return selected
    result = lazy_zeros((len(images), *selected.shape[1:]), selected.dtype)
    result[ids] = selected
    return result

  return read
