"""Checkpoints of a run's state: durable when saved, checked when restored."""

import contextlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.processes import is_network_error
from fedjax_norm.training.storage import orbax_errors
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.typing import PyTree

_DAMAGED = "damaged"
_CHECKSUMS = "checksums.json"
# After a failed save: how often, and after how long, its folder is looked for.
_SETTLE_TRIES, _SETTLE_SECONDS = 20, 0.25


class Checkpoints:
  """The last few checkpoints of one run; a context manager.

  ``save`` returns when the checkpoint is complete on the disk: it is written under a temporary
  name, and renamed once whole, so that a kill at any moment leaves the checkpoint before it
  readable. Every file has a checksum. With several processes all of them call every method.

  A damaged newest checkpoint is never deleted: ``restore`` warns and takes the one before it, and
  the next ``save`` moves the damaged one into the subfolder ``damaged``. What ``latest`` returns
  after ``restore`` is the round that was restored.
  """

  def __init__(self, path: str | os.PathLike, keep: int = 2):
    """Opens the folder, created where absent, and clears what an interrupted save left.

    Args:
      path: the folder of the checkpoints, used for nothing else.
      keep: how many checkpoints stay; 2 or more leave one to fall back on.

    Raises:
      ValueError: ``keep`` is below 1.
      UserError: the folder cannot be used.
    """
    if keep < 1:
      raise ValueError(f"keep is {keep}; at least one checkpoint has to stay.")
    self.path = Path(path).expanduser().absolute()
    self.keep = keep
    self._unreadable: set[int] = set()
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
      raise UserError(
        f"The checkpoint folder {self.path} cannot be created because a file of that name is "
        "there; move it away or pass another --workdir."
      ) from error
    if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
      raise UserError(
        f"The checkpoint folder {self.path} is not writable; change its permissions or pass "
        "another --workdir."
      )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(keep),
      # A save is waited for anyway; without the thread it also costs less.
      enable_async_checkpointing=False,
      cleanup_tmp_directories=True,
      save_root_metadata=False,
      prevent_write_metrics=True,
    )
    with orbax_errors.quiet():
      self._manager = ocp.CheckpointManager(
        self.path, options=options, item_names=("arrays", "layout")
      )

  def latest(self) -> int | None:
    """The newest complete round not found damaged, or None where there is none."""
    return max(self.rounds(), default=None)

  def rounds(self) -> list[int]:
    """The complete rounds not found damaged, in any order."""
    return [r for r in self._manager.all_steps() if r not in self._unreadable]

  def save(self, round: int, tree: PyTree) -> None:
    """Saves a state; on return it is complete on the disk, and surplus old ones are gone.

    Args:
      round: the round the state stands after, above every round saved.
      tree: arrays of any shape and dtype (but no typed random keys), numbers; any nesting.

    Raises:
      ValueError: a checkpoint of that round or a later one is there.
      OSError: the disk refuses the files; the checkpoint before stays the last one.
    """
    last = self.latest()
    if last is not None and round <= last:
      raise ValueError(f"Round {round} is not after round {last}, the last checkpoint.")
    self._set_damaged_aside()
    names, leaves = _named_leaves(tree)
    arrays = [_to_host(leaf) for leaf in leaves]
    layout = [[name, *_kind(array)] for name, array in zip(names, arrays, strict=True)]
    args = {"layout": ocp.args.JsonSave({"leaves": layout})}
    # An array without elements is all in its layout, and a checkpoint holds no empty item.
    stored = {k: a for k, a in zip(_keys(names), arrays, strict=True) if a.size}
    if stored:
      args["arrays"] = ocp.args.StandardSave(stored)
    with self._writing(round):
      with orbax_errors.quiet():
        self._manager.save(round, args=ocp.args.Composite(**args), force=True)
        self._manager.wait_until_finished()
      if jax.process_index() == 0:
        folder = self.path / str(round)
        # Last: a kill before this leaves a whole checkpoint that is read without this check.
        write_atomic(folder / _CHECKSUMS, json.dumps(_checksums(folder)).encode())

  def restore(self, template: PyTree) -> PyTree:
    """The newest complete state, bit for bit.

    Args:
      template: a tree of the structure, shapes and dtypes that were saved. Where it has a jax
        array the result has one, placed alike; elsewhere a numpy array.

    Returns:
      The state in the structure of ``template``. If newer checkpoints were damaged, a warning
      says so and the newest sound one is returned: ask ``latest`` for its round afterwards.

    Raises:
      UserError: there is no checkpoint, none is readable, or it does not fit the template.
    """
    rounds = sorted(self.rounds(), reverse=True)
    for round in rounds:
      try:
        return self._restore(round, template)
      except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
      except PermissionError as error:
        raise UserError(
          f"The checkpoint of round {round} in {self.path} may not be read; change its permissions."
        ) from error
      except Exception as error:  # whatever the storage library raises on bytes it cannot read
        if jax.process_count() > 1 and is_network_error(error):
          raise
        logging.warning(
          "The checkpoint of round %d in %s is damaged and is left out (%s).",
          round,
          self.path,
          type(error).__name__,
        )
        self._unreadable.add(round)
    raise UserError(
      f"Every checkpoint in {self.path} is damaged; restore the folder from a copy or pass "
      "another --workdir."
      if rounds or self._unreadable
      else f"There is no checkpoint in {self.path}; pass the --workdir of a run that saved one."
    )

  def close(self) -> None:
    """Lets go of the folder."""
    with orbax_errors.quiet():
      self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, error: BaseException | None, *_) -> None:
    if isinstance(error, KeyboardInterrupt) and (last := self.latest()) is not None:
      error.add_note(f"round {last} is saved in {self.path}")
    self.close()

  @contextlib.contextmanager
  def _writing(self, round: int) -> Iterator[None]:
    """Makes an ``OSError`` of what the storage library says, and clears what is half written."""
    try:
      yield
    except Exception as error:
      code = orbax_errors.os_error(error)
      if code is None:
        raise
      for _ in range(_SETTLE_TRIES):  # threads that are still writing make the folder anew
        for half in self.path.glob(f"{round}.*"):
          shutil.rmtree(half, ignore_errors=True)
        time.sleep(_SETTLE_SECONDS)
        if not any(self.path.glob(f"{round}.*")):
          break
      raise OSError(code, os.strerror(code), str(self.path)) from error

  def _set_damaged_aside(self) -> None:
    if not self._unreadable:
      return
    # Every process waits here, so that none saves while the first one still moves folders.
    if jax.process_index() == 0:
      aside = self.path / _DAMAGED
      aside.mkdir(exist_ok=True)
      for round in self._unreadable:
        target = aside / str(round)
        copies = 1
        while target.exists():
          copies += 1
          target = aside / f"{round}-{copies}"
        os.replace(self.path / str(round), target)
    if jax.process_count() > 1:
      ocp.multihost.sync_global_processes("fedjax_norm_damaged_aside")
    self._unreadable = set()
    with orbax_errors.quiet():
      self._manager.reload()

  def _verify(self, round: int) -> None:
    # Before the storage library opens anything: of bytes it cannot read it makes a lot of noise.
    folder = self.path / str(round)
    if (folder / _CHECKSUMS).exists():
      expected = json.loads((folder / _CHECKSUMS).read_bytes())
      if expected != _checksums(folder):
        raise ValueError("checksum")

  def _restore(self, round: int, template: PyTree) -> PyTree:
    self._verify(round)
    with orbax_errors.quiet():
      args = ocp.args.Composite(layout=ocp.args.JsonRestore())
      saved = self._manager.restore(round, args=args)["layout"]["leaves"]
    names, leaves = _named_leaves(template)
    here = {name: _kind(leaf) for name, leaf in zip(names, leaves, strict=True)}
    there = {name: (dtype, shape) for name, dtype, shape in saved}
    self._check_fit(round, there, here)
    targets = {k: _target(leaf) for k, leaf in zip(_keys(names), leaves, strict=True)}
    targets = {k: target for k, target in targets.items() if target.size}
    arrays = {}
    if targets:
      with orbax_errors.quiet():
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(targets))
        arrays = self._manager.restore(round, args=args)["arrays"]
    restored = [
      _place(arrays[key] if key in arrays else np.empty(leaf.shape, leaf.dtype), leaf)
      for key, leaf in zip(_keys(names), leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), restored)

  def _check_fit(self, round: int, there: dict[str, Any], here: dict[str, Any]) -> None:
    def describe(kinds, name):
      return "{}{}".format(*kinds[name]) if name in kinds else "absent"

    both = {**there, **here}
    differing = [name for name in both if there.get(name) != here.get(name)]
    if differing:
      name = differing[0]
      more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
      raise UserError(
        f"The checkpoint of round {round} in {self.path} does not fit this run: "
        f"state{name} is {describe(there, name)} there and {describe(here, name)} here{more}; "
        "pass the flags it was saved with or another --workdir."
      )


def _named_leaves(tree: PyTree) -> tuple[list[str], list[Any]]:
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for _, leaf in flat]
  return [jax.tree_util.keystr(path) for path, _ in flat], leaves


def _keys(names: list[str]) -> list[str]:
  # Stored flat: a number keeps keys apart, the rest is for whoever opens the files by hand.
  return [f"{i:04d}." + re.sub(r"\W+", ".", n).strip(".") for i, n in enumerate(names)]


def _kind(array: Any) -> tuple[str, list[int]]:
  return str(array.dtype), list(array.shape)


def _spread(leaf: Any) -> bool:
  """Whether no single process holds the whole array."""
  return (
    isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated
  )


def _to_host(leaf: Any) -> Any:
  return leaf if _spread(leaf) else np.asarray(leaf)


def _checksums(folder: Path) -> dict[str, int]:
  files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(_CHECKSUMS))
  return {f.relative_to(folder).as_posix(): zlib.crc32(f.read_bytes()) for f in files}


def _target(leaf: Any) -> Any:
  if _spread(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
  return np.empty(leaf.shape, leaf.dtype)


def _place(array: Any, leaf: Any) -> Any:
  if not isinstance(leaf, jax.Array) or _spread(leaf):
    return array
  if leaf.committed:
    return jax.device_put(array, leaf.sharding)
  if leaf.weak_type and leaf.ndim == 0:
    # Keeps the type as it was, so that the resumed run needs no program of its own.
    scalar = jnp.asarray(array.item())
    if scalar.dtype == leaf.dtype:
      return scalar
  return jnp.array(array)
