"""One entry to every data source, by name."""

from fedjax_norm.data import digits, folders, images, npy, npz, synthetic, tfds_source
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
) -> Source:
  """Loads a data source.

  Args:
    name: `digits`; `synthetic` with options as in `synthetic.Options`, as in
      `synthetic:classes=4,noise=0.1`; `npy:PATH`; `npz:PATH`; `folder:PATH`; or a TFDS image
      classification set that `data_dir` holds prepared, such as `cifar10`.
    data_dir: where TFDS has prepared its sets; only those need it.
    seed: the chance in `synthetic` and in the split of a `folder`; the others have none.
    image_size: the side in pixels to resize the images to, whatever their aspect ratio; None keeps
      their size, and images that stay on the disk (`npy`) keep theirs always.

  Raises:
    UserError: there is no such source, or it cannot be read; the sentence says why.
  """
  if seed < 0:
    raise UserError(f"The data seed must be at least 0, not {seed}.")
  if image_size is not None and image_size < 1:
    raise UserError(f"The image size must be at least 1 pixel, not {image_size}.")
  kind, _, argument = name.partition(":")
  if kind == "folder" and argument:
    return folders.load(argument, seed, image_size)
  if kind == "npy" and argument:
    if image_size is not None:
      raise UserError(
        "The images of npy: stay in their file, so they are not resized; write them in the size you"
        " want, or use npz:."
      )
    return npy.load(argument)
  if name == "digits":
    source = digits.load()
  elif kind == "synthetic":
    source = synthetic.load(synthetic.parse(argument), seed)
  elif kind == "npz" and argument:
    source = npz.load(argument)
  else:
    return _prepared(name, data_dir, image_size)
  return source if image_size is None else _resized(source, image_size)


def _prepared(name: str, data_dir: str | None, image_size: int | None) -> Source:
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
  return tfds_source.load(name, data_dir, image_size)


def _resized(source: Source, size: int) -> Source:
  return source._replace(
    train=source.train._replace(images=images.resize(source.train.images, size)),
    test=source.test._replace(images=images.resize(source.test.images, size)),
  )
