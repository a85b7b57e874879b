"""The size of the machine's main memory, and checks that arrays fit into it."""

import math
import os

from fedjax_norm.errors import UserError


def total_bytes() -> int:
  """Returns the size of the machine's main memory in bytes."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check(size: float, what: str, advice: str) -> None:
  """Checks, before an allocation, that it fits into the machine's main memory.

  Args:
    size: lower bound of the bytes that will be allocated.
    what: name of the allocated thing, for the error message.
    advice: what the user can do instead, for the error message.

  Raises:
    UserError: ``size`` exceeds the machine's memory.
  """
  available = total_bytes()
  if size > available:
    raise UserError(
      f"{what} needs {human_bytes(size)} and this machine has {human_bytes(available)}; {advice}."
    )


def check_batch(size: int, image_shape: tuple[int, ...]) -> None:
  """Checks that a batch of ``size`` float32 images (H, W, C) fits into the machine's main memory.

  Raises:
    UserError: the batch does not fit.
  """
  what = f"a batch of {size:,} images of {'x'.join(map(str, image_shape))}"
  check(4 * size * math.prod(image_shape), what, "choose a smaller batch_size or smaller images")


def human_bytes(count: float) -> str:
  """Returns a number of bytes as text with a decimal unit: ``999 B``, ``1.50 kB``, ``12.3 MB``.

  Raises:
    ValueError: ``count`` is negative or not finite.
  """
  if not 0 <= count < math.inf:
    raise ValueError(f"A number of bytes must be finite and not negative, not {count}.")
  if round(count) < 1000:
    return f"{round(count)} B"
  for unit in ("kB", "MB", "GB", "TB"):
    count /= 1000
    decimals = 2 if count < 9.995 else 1 if count < 99.95 else 0
    # The rounded number is compared, so that "1000 kB" is printed as "1.00 MB".
    if float(text := f"{count:.{decimals}f}") < 1000:
      return f"{text} {unit}"
  return f"{count / 1000:,.2f} PB"
