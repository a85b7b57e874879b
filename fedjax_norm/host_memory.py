"""The machine's memory, and checks that something fits it."""

import math
import os

from fedjax_norm.errors import UserError


def total_bytes() -> int:
  """Returns the bytes of the machine's memory."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check(size: float, what: str, advice: str) -> None:
  """Checks that something fits the machine's memory, before it is allocated.

  Args:
    size: bytes that it needs at least.
    what: description of what needs them.
    advice: what to do instead.

  Raises:
    UserError: it does not fit.
  """
  available = total_bytes()
  if size > available:
    raise UserError(
      f"{what} needs {human_bytes(size)} and this machine has {human_bytes(available)}; {advice}."
    )


def check_batch(size: int, image_shape: tuple[int, ...]) -> None:
  """Checks that a batch of float images fits the machine's memory.

  Args:
    size: number of examples.
    image_shape: (H, W, C).

  Raises:
    UserError: it does not fit.
  """
  what = f"a batch of {size:,} images of {'x'.join(map(str, image_shape))}"
  check(4 * size * math.prod(image_shape), what, "choose a smaller batch_size or smaller images")


def human_bytes(count: float) -> str:
  """Formats a number of bytes in decimal units: ``999 B``, ``1.50 kB``, ``12.3 MB``.

  Args:
    count: number of bytes, not negative.

  Raises:
    ValueError: ``count`` is negative or not finite.
  """
  if not 0 <= count < math.inf:
    raise ValueError(f"A number of bytes must be finite and not negative, not {count}.")
  if round(count) < 1000:
    return f"{round(count)} B"
  for unit in ("kB", "MB", "GB", "TB"):
    count /= 1000
    # The rounded number is compared, so that "1000 kB" is printed as "1.00 MB".
    if float(text := _three_digits(count)) < 1000:
      return f"{text} {unit}"
  return f"{count / 1000:,.2f} PB"


def _three_digits(value: float) -> str:
  decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
  return f"{value:.{decimals}f}"
