"""Builds from the flags what the client and the server both need, such as the cut network."""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_norm import host_memory, models, options, tree_leaves
from fedjax_norm.cli.split_options import SplitFlags
from fedjax_norm.cli.wire import options as flags
from fedjax_norm.cli.wire.options import ClientFlags, ServerFlags, WireFlags
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import NORMS
from fedjax_norm.typing import Variables
from fedjax_norm.wire.protocol import identity, private_files
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network, batched, check_steps, make_network

Shape = tuple[int, int, int]


def server_settings(config: ServerFlags) -> dict[str, Any]:
  """Returns the values of the flags that the server decides for all clients, by name."""
  return {name: getattr(config, name) for name in flags.SERVER_SETTINGS}


def apply_server_settings(config: ClientFlags, content: dict[str, Any]) -> ClientFlags:
  """Returns a client's flags with the values that the server sent.

  Raises:
    UserError: the server is of another version, sends an impossible value, or has another --cut or
      --tail than the client.
  """
  if set(content) != set(flags.SERVER_SETTINGS):
    raise UserError(
      "the server sends other settings than this client knows; use one version on both sides."
    )
  known = {option.name: option for option in options.of(type(config))}
  for name, value in content.items():
    if not _is_valid(value, known[name]):
      raise UserError(
        f"the server sends --{name}={value!r}, an impossible value; use one version on both sides."
      )
  for name in flags.CONFIRMED_BY_CLIENT:
    mine, servers = getattr(config, name), content[name]
    if mine != servers:
      raise UserError(
        f"the server {_flag_text(name, servers)} and this client {_flag_text(name, mine)}; give "
        f"the same --{name} on both sides, because it decides what a client sends."
      )
  return dataclasses.replace(config, **options.from_json(content))


def _is_valid(value: Any, option: options.Option) -> bool:
  """Whether a value from JSON is possible for an option."""
  if value is None:
    return option.default is None
  if isinstance(value, list):
    numbers = all(isinstance(item, float) and math.isfinite(item) for item in value)
    return tuple in option.types and numbers
  if isinstance(value, bool):
    return bool in option.types
  if isinstance(value, float):
    return float in option.types and math.isfinite(value)
  return isinstance(value, option.types) and (not option.choices or value in option.choices)


def _flag_text(name: str, value: str | None) -> str:
  return f"has no --{name}" if value is None else f"has --{name}={value}"


def build_network(config: WireFlags, image_shape: Shape, classes: int) -> Network:
  """Builds the cut network for images of (H, W, C).

  Raises:
    UserError: the norm, schedule or model cannot be used over a network, or there is one class.
  """
  if NORMS[config.norm].freezes_statistics:
    raise UserError(
      "FixBN changes the network during training, which split learning over a network does not "
      "support; choose --norm=bn or --norm=gn."
    )
  if config.lr_schedule == "plateau":
    raise UserError(
      "split learning over a network does not measure when the loss stops falling; choose another "
      "schedule than --lr_schedule=plateau."
    )
  entry = models.entry(config.model)
  if entry.segments or entry.embeds:
    raise UserError(
      f"split learning over a network classifies images, which {config.model!r} does not; choose "
      "another --model."
    )
  if classes < 2:
    raise UserError(f"a classifier needs at least 2 classes; --classes is {classes}.")
  host_memory.check_batch(config.batch_size, image_shape)
  norm = config.make_norm(config.rounds)
  model = models.create(config.model, norm, classes, image_shape, config.stem)
  if not isinstance(model, Staged):
    raise UserError(f"{config.model!r} has no stages between which to cut; choose another --model.")
  image = jax.ShapeDtypeStruct(image_shape, config.compute_dtype)
  return make_network(model, config.fill_defaults(norm, all_clients=True), image, classes)


def check_messages(config: WireFlags, network: Network, examples: int) -> None:
  """Raises ``UserError`` if a message with a batch's activations would exceed --max_megabytes."""
  sent = network.outputs[: len(network.client_indices)]
  count = min(network.batch_size, examples)
  largest = max(tree_leaves.num_bytes(batched(shapes, count)) for shapes in sent)
  if largest > limit(config):
    raise UserError(
      f"a message with one batch takes {host_memory.human_bytes(largest)} but --max_megabytes is "
      f"{config.max_megabytes}; raise it on both sides, lower --batch_size or cut elsewhere."
    )


def make_rates(config: SplitFlags, steps: int) -> np.ndarray:
  """Returns the learning rate of each round, [rounds] float32.

  Raises ``UserError`` if turns of ``steps`` local steps are too many to count in all rounds.
  """
  check_steps(config.rounds, steps)
  return config.rates(config.rounds)


def limit(config: WireFlags) -> int:
  """Returns the largest number of bytes in a message, from --max_megabytes."""
  return config.max_megabytes * 10**6


def load_identity(config: WireFlags, *, client: bool) -> Identity:
  """Reads this party's certificate and key; a client's certificate is also verified."""
  if config.certificate is None or config.key is None:
    raise UserError("give this party's --certificate and --key, made by experiments.certificates.")
  load = identity.load_client if client else identity.load
  return load(config.authority, config.certificate, config.key)


def save_part(path: Path, variables: Variables) -> None:
  """Writes a segment's variables as an npz file, by path; only the file's owner can read it."""
  content, leaves = io.BytesIO(), tree_leaves.flatten(variables).items()
  arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves}
  np.savez(content, **arrays)
  private_files.replace(path, content.getvalue())


def print_status(text: str) -> None:
  """Prints a status line without delay, even to a pipe or a file."""
  print(text, flush=True)
