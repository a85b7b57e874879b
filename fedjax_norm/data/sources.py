"""One entry to every data source, by name."""

from fedjax_norm.data import digits, folders, npy, npz, own, synthetic, tfds_source
from fedjax_norm.data.examples import Source
from fedjax_norm.errors import UserError

BUILT_IN = ("digits", "synthetic[:key=value,...]", "npy:PATH", "npz:PATH", "folder:PATH")
"""How the sources are written that need no prepared TFDS set."""


def load(
  name: str,
  data_dir: str | None = None,
  *,
  seed: int = 0,
  image_size: int | None = None,
  mine: own.Mine | None = None,
) -> Source:
  """Loads a data source, or of its training images those that one of several processes needs.

  Args:
    name: `digits`; `synthetic` with options as in `synthetic.Options`, as in
      `synthetic:classes=4,noise=0.1`; `npy:PATH`; `npz:PATH`; `folder:PATH`; or a TFDS image
      classification set that `data_dir` holds prepared, such as `cifar10`.
    data_dir: where TFDS has prepared its sets; only those need it.
    seed: the chance in `synthetic` and in the split of a `folder`; the others have none.
    image_size: the side in pixels to resize the images to, whatever their aspect ratio; None keeps
      their size, and images that stay on the disk (`npy`) keep theirs always.
    mine: chooses the training examples whose images are this process's own; None is all of them.
      The arrays have their whole length in any case, and own rows are the same bits. The images
      of other rows are zero and take no memory, or stay unread in their file (`npy`). Labels,
      natural clients and the test set are whole.

  Raises:
    UserError: there is no such source, or it cannot be read, or `mine` chooses no example; the
      sentence says why.
  """
  if seed < 0:
    raise UserError(f"The data seed must be at least 0, not {seed}.")
  if image_size is not None and image_size < 1:
    raise UserError(f"The image size must be at least 1 pixel, not {image_size}.")
  kind, _, argument = name.partition(":")
  if kind == "folder" and argument:
    return folders.load(argument, seed, image_size, mine)
  if kind == "npy" and argument:
    if image_size is not None:
      raise UserError(
        "The images of npy: stay in their file, so they are not resized; write them in the size you"
        " want, or use npz:."
      )
    return npy.load(argument, mine)
  if name == "digits":
    return digits.load(image_size, mine)
  if kind == "synthetic":
    return synthetic.load(synthetic.parse(argument), seed, image_size, mine)
  if kind == "npz" and argument:
    return npz.load(argument, image_size, mine)
  return _prepared(name, data_dir, image_size, mine)


def _prepared(
  name: str, data_dir: str | None, image_size: int | None, mine: own.Mine | None
) -> Source:
  known = f"the sources are {', '.join(BUILT_IN)}"
  if data_dir is None:
    raise UserError(
      f"There is no data source {name!r} without a folder of TFDS sets; {known}, and with data_dir"
      " the sets prepared there."
    )
  available = tfds_source.prepared(data_dir)
  if name not in available:
    how = ""
    if name == "tiny_imagenet":
      how = " (prepare it with python -m fedjax_norm.data.tiny_imagenet)"
    raise UserError(
      f"There is no data source {name!r}{how}; {known}, and the sets prepared in {data_dir}:"
      f" {', '.join(available) or 'none'}."
    )
  return tfds_source.load(name, data_dir, image_size, mine)
