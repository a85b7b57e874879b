"""From the flags of a wire to the library's objects, the same way on both sides."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import build
from experiments.split_flags import SplitFlags, make_split_config
from experiments.wire_flags import TOLD, ClientFlags, ServerFlags, WireFlags
from fedjax_norm import models, trees
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged
from fedjax_norm.training.run_folder import write_atomic
from fedjax_norm.typing import Variables
from fedjax_norm.wire import identity
from fedjax_norm.wire.identity import Identity
from fedjax_norm.wire.network import Network, make_network

Shape = tuple[int, int, int]


def told(config: ServerFlags) -> dict[str, Any]:
  """What the server tells the clients of its flags."""
  return {name: getattr(config, name) for name in TOLD}


def merged(config: ClientFlags, content: dict[str, Any]) -> ClientFlags:
  """A client's flags with what the server has told it.

  Raises:
    UserError: the server is of another version, or tells something else.
  """
  plain = all(isinstance(v, str | int | float | bool | None) for v in content.values())
  if set(content) != set(TOLD) or not plain:
    raise UserError("the server tells other settings than this client knows; use one version.")
  return dataclasses.replace(config, **content)


def make_network_of(config: SplitFlags, image_shape: Shape, classes: int) -> Network:
  """The cut network.

  Args:
    config: the flags, complete.
    image_shape: (H, W, C).
    classes: how many.

  Raises:
    UserError: what the wire does not do.
  """
  if config.norm == "fixbn":
    raise UserError("FixBN changes the network half-way, which the wire does not do; use bn or gn.")
  if config.lr_schedule == "plateau":
    raise UserError("on a wire nobody knows when the loss stops falling; choose another schedule.")
  entry = models.entry(config.model)
  if entry.segments or entry.embeds:
    raise UserError(f"the wire classifies images, which {config.model!r} does not; choose another.")
  if classes < 2:
    raise UserError(f"a classifier needs at least 2 classes; --classes is {classes}.")
  # A client's --alpha is that of its partition.
  options = make_split_config(dataclasses.replace(config, alpha=None))
  model = models.create(config.model, build.make_norm(config), classes, image_shape, config.stem)
  if not isinstance(model, Staged):
    raise UserError(f"the model {config.model!r} is not made of stages, so it cannot be cut.")
  image = jax.ShapeDtypeStruct(image_shape, config.compute_dtype)
  return make_network(model, options, image, classes)


def make_rates(config: SplitFlags) -> np.ndarray:
  """[rounds] float32."""
  return build.make_schedule(config).rates(build.lengths(config)[0])


def limit(config: WireFlags) -> int:
  """The most bytes of a message."""
  build.at_least(config, 1, "max_megabytes")
  return config.max_megabytes * 10**6


def own_identity(config: WireFlags, *, client: bool) -> Identity:
  """This party's certificate."""
  if config.certificate is None or config.key is None:
    raise UserError(
      "give this party's --certificate and --key; experiments.certificates makes them."
    )
  load = identity.load_client if client else identity.load
  return load(config.authority, config.certificate, config.key)


def save_part(path: Path, variables: Variables) -> None:
  """Writes a part of the model as an npz of its arrays by path."""
  content = io.BytesIO()
  arrays: dict[str, Any] = {k: np.asarray(leaf) for k, leaf in trees.flatten(variables).items()}
  np.savez(content, **arrays)
  write_atomic(path, content.getvalue())
