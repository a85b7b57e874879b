"""Decoding and resizing of images on the host, with Pillow."""

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from fedjax_norm import host_memory
from fedjax_norm.data import process_local
from fedjax_norm.errors import UserError

Stream = str | os.PathLike | BinaryIO

_GRAY = ("1", "L", "LA")
_DEEP = ("I", "F")  # and the "I;16" family: more than 8 bits a channel

# Files with these suffixes are images without a look at their content. Other files are images if
# their content has one of these formats. Pillow's other formats are those of films and documents,
# or have no mark to be recognised by; HEIF and JXL come with plugins.
_SUFFIXES = (
  ".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
  ".jpeg", ".jpg", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi",
  ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
_FORMATS = (
  "AVIF", "BMP", "DDS", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "JXL", "PCX", "PNG", "PPM", "PSD",
  "QOI", "SGI", "TIFF", "WEBP",
)  # fmt: skip

# EXIF's orientation -> what makes the pixels upright.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # those that exchange height and width


def is_image(path: Path) -> bool:
  """Whether a file is an image, by its suffix or by its content.

  The content decides for files without a suffix and for the rarer suffixes that Pillow or one of
  its plugins registers. Files with any other suffix count as no images: raw photos and backups of
  an editor have the content of an image, but are usually copies of one that is there as well.
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
  except Exception:  # whatever other content makes Pillow's readers raise
    return False


def _orientation(image: Image.Image) -> int:
  """How an image that is not decoded yet is to be turned, by EXIF; 1 is not at all."""
  if image.format == "TIFF":
    return 1  # Pillow turns it, and tells the size that it has then
  try:
    # Not the method of PNG files, which decodes the pixels to look behind them.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
  except Exception:  # damaged metadata of pixels that are sound
    return 1


def _open(stream: Stream, where: str) -> Image.Image:
  try:
    # A large photograph is what the user asked for, not an attack.
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      return Image.open(stream)
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UserError(f"{where} is not an image that can be read; replace or remove it.") from error


def header(stream: Stream, where: str) -> tuple[int, int, int]:
  """Reads the height, width and channels (1 or 3) of an image without decoding its pixels.

  Height and width are those of the upright image, as `decode` gives it.

  Raises:
    UserError: it is no image, or it has more than 8 bits a channel.
  """
  with _open(stream, where) as image:
    if image.mode.split(";")[0] in _DEEP:
      raise UserError(f"{where} has more than 8 bits a channel; convert it to 8-bit pixels.")
    size = image.size if _orientation(image) in _LYING else image.size[::-1]
    return *size, 1 if image.mode in _GRAY else 3


def decode(stream: Stream, where: str, channels: int, size: int | None = None) -> np.ndarray:
  """Decodes one image as uint8, upright as viewers show it by EXIF's orientation.

  Args:
    stream: a path or an open file with an encoded image.
    where: what an error calls it.
    channels: 1 (luminance) or 3 (RGB); an alpha channel is dropped.
    size: the side to resize to, whatever the aspect ratio; None keeps the size.

  Returns:
    [H, W, channels] uint8.

  Raises:
    UserError: the image is damaged.
  """
  with _open(stream, where) as image:
    upright = _UPRIGHT.get(_orientation(image))
    try:
      if "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns that it drops the transparency
      image = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f"{where} is a damaged image; replace or remove it.") from error
    if upright is not None:
      image = image.transpose(upright)
    if size is not None and image.size != (size, size):
      image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
  return pixels[..., None] if channels == 1 else pixels


def stack(
  streams: Iterable[Stream],
  count: int,
  where: Callable[[int], str],
  channels: int,
  size: int | None = None,
  ids: np.ndarray | None = None,
) -> np.ndarray:
  """Decodes images into one array.

  Args:
    streams: the encoded images, at least 1.
    count: how many images the array has room for.
    where: the name of image i, for errors.
    channels: 1 or 3.
    size: as in `decode`.
    ids: where in the array the images belong; None means that there are `count` of them.

  Returns:
    [count, H, W, channels] uint8, zero where no image belongs.

  Raises:
    UserError: an image is damaged or has another size than the first.
  """
  if size is not None:
    _check_memory(count if ids is None else len(ids), size, channels)
  placed = zip(range(count) if ids is None else ids, streams, strict=True)
  first, stream = next(placed)
  pixels = decode(stream, where(first), channels, size)
  shape = (count, *pixels.shape)
  result = np.empty(shape, np.uint8) if ids is None else process_local.blank(shape, pixels.dtype)
  result[first] = pixels
  for i, stream in placed:
    pixels = decode(stream, where(i), channels, size)
    if pixels.shape != result.shape[1:]:
      height, width = result.shape[1:3]
      raise UserError(
        f"{where(i)} has {pixels.shape[0]}x{pixels.shape[1]} pixels where {where(first)} has"
        f" {height}x{width}; give an image size to resize them all to."
      )
    result[i] = pixels
  return result


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """Resizes [N, H, W, C] images to [N, size, size, C], bilinearly, keeping uint8 or float32."""
  if images.shape[1:3] == (size, size):
    return images
  count, _, _, channels = images.shape
  _check_memory(count, size, channels * images.dtype.itemsize)
  result = np.empty((count, size, size, channels), images.dtype)
  for i, c in np.ndindex(count, channels):
    # Channel by channel: Pillow has no float image of several channels.
    plane = Image.fromarray(np.ascontiguousarray(images[i, :, :, c]))
    result[i, :, :, c] = plane.resize((size, size), Image.Resampling.BILINEAR)
  return result


def resize_classes(classes: np.ndarray, size: int | None) -> np.ndarray:
  """Resizes [N, H, W] pixel classes to [N, size, size], each that of the nearest pixel.

  Args:
    classes: of any dtype.
    size: the side; None keeps the size.
  """
  if size is None:
    return classes
  _check_memory(len(classes), size, classes.dtype.itemsize)
  rows, columns = (
    ((np.arange(size) + 0.5) * side / size).astype(int) for side in classes.shape[1:3]
  )
  return classes[:, rows[:, None], columns]


def _check_memory(count: int, size: int, pixel_bytes: int) -> None:
  what = f"resizing {count:,} images to {size}x{size}"
  host_memory.check(count * size**2 * pixel_bytes, what, "choose a smaller image size")


def reader(images: np.ndarray, size: int | None) -> process_local.Read:
  """Reads from images that are in memory, resized to `size` unless that is None.

  What it reads for some ids is a copy, so that the whole set can leave the memory.
  """

  def read(ids: np.ndarray | None) -> np.ndarray:
    rows = images if ids is None else images[ids]
    rows = rows if size is None else resize(rows, size)
    if ids is None:
      return rows
    result = process_local.blank((len(images), *rows.shape[1:]), rows.dtype)
    result[ids] = rows
    return result

  return read
