"""From the flags of a wire to the library's objects, the same way on both sides."""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_norm import host_memory, models, options, tree_leaves
from fedjax_norm.cli.split_options import SplitFlags
from fedjax_norm.cli.wire.options import AGREED, TOLD, ClientFlags, ServerFlags, WireFlags
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import NORMS
from fedjax_norm.typing import Variables
from fedjax_norm.wire.protocol import identity, private_files
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network, check_steps, leading, make_network

Shape = tuple[int, int, int]


def told(config: ServerFlags) -> dict[str, Any]:
  """What the server tells the clients of its flags."""
  return {name: getattr(config, name) for name in TOLD}


def merged(config: ClientFlags, content: dict[str, Any]) -> ClientFlags:
  """A client's flags with what the server has told it.

  Raises:
    UserError: the server is of another version, tells what cannot be, or cuts the model elsewhere
      than the client's user says.
  """
  if set(content) != set(TOLD):
    raise UserError("the server tells other settings than this client knows; use one version.")
  known = {one.name: one for one in options.of(type(config))}
  for name, value in content.items():
    if not _can_be(value, known[name]):
      raise UserError(
        f"the server tells --{name}={value!r}, which cannot be; use one version on both sides."
      )
  for name in AGREED:
    mine, its = getattr(config, name), content[name]
    if mine != its:
      raise UserError(
        f"the server {_said(name, its)} and this client {_said(name, mine)}; what a client sends "
        "depends on it, so say the same on both sides."
      )
  return dataclasses.replace(config, **options.from_json(content))


def _can_be(value: Any, one: options.Option) -> bool:
  """Whether an option can have a value that came as JSON."""
  if value is None:
    return one.default is None
  if isinstance(value, list):
    return tuple in one.types and all(isinstance(at, float) and math.isfinite(at) for at in value)
  if isinstance(value, bool):
    return bool in one.types
  if isinstance(value, float):
    return float in one.types and math.isfinite(value)
  return isinstance(value, one.types) and (not one.choices or value in one.choices)


def _said(name: str, value: str | None) -> str:
  return f"has no --{name}" if value is None else f"has --{name}={value}"


def make_network_of(config: WireFlags, image_shape: Shape, classes: int) -> Network:
  """The cut network.

  Args:
    config: the flags, complete.
    image_shape: (H, W, C).
    classes: how many.

  Raises:
    UserError: what the wire does not do.
  """
  if NORMS[config.norm].settles:
    raise UserError("FixBN changes the network half-way, which the wire does not do; use bn or gn.")
  if config.lr_schedule == "plateau":
    raise UserError("on a wire nobody knows when the loss stops falling; choose another schedule.")
  entry = models.entry(config.model)
  if entry.segments or entry.embeds:
    raise UserError(f"the wire classifies images, which {config.model!r} does not; choose another.")
  if classes < 2:
    raise UserError(f"a classifier needs at least 2 classes; --classes is {classes}.")
  host_memory.check_batch(config.batch_size, image_shape)
  norm = config.make_norm(config.rounds)
  model = models.create(config.model, norm, classes, image_shape, config.stem)
  if not isinstance(model, Staged):
    raise UserError(f"the model {config.model!r} is not made of stages, so it cannot be cut.")
  image = jax.ShapeDtypeStruct(image_shape, config.compute_dtype)
  return make_network(model, config.in_force(norm, all_clients=True), image, classes)


def check_messages(config: WireFlags, network: Network, examples: int) -> None:
  """Refuses minibatches that are larger than a message may be.

  Args:
    config: the flags, complete.
    network: the model.
    examples: the size of the client's largest set.

  Raises:
    UserError: what the client or the server sends for a minibatch is too large.
  """
  sent = network.outputs[: len(network.alice)]  # by the client, and in the U-shape by the server
  count = min(network.batch_size, examples)
  largest = max(tree_leaves.num_bytes(leading(one, count)) for one in sent)
  if largest > limit(config):
    raise UserError(
      f"what is sent of a minibatch takes {host_memory.human_bytes(largest)} and --max_megabytes "
      f"is {config.max_megabytes}; raise it on both sides, lower --batch_size or cut elsewhere."
    )


def make_rates(config: SplitFlags, steps: int) -> np.ndarray:
  """The learning rates, [rounds] float32.

  Args:
    config: the flags, complete.
    steps: of one turn, at least.

  Raises:
    UserError: the run has more steps than can be counted, or its schedule cannot be.
  """
  check_steps(config.rounds, steps)
  return config.rates(config.rounds)


def limit(config: WireFlags) -> int:
  """The most bytes of a message."""
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
  """Writes a part of the model as an npz of its arrays by path, for its owner alone."""
  content = io.BytesIO()
  arrays: dict[str, Any] = {
    k: np.asarray(leaf) for k, leaf in tree_leaves.flatten(variables).items()
  }
  np.savez(content, **arrays)
  private_files.replace(path, content.getvalue())


def say(text: str) -> None:
  """Tells the user what happens, at once."""
  print(text, flush=True)
