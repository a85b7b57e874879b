"""Saves the state of a run in checkpoints, and restores the newest undamaged one."""

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.processes import is_network_error
from fedjax_norm.training.storage import orbax_errors
from fedjax_norm.training.storage.atomic_files import make_folder, write_atomic
from fedjax_norm.training.storage.checkpoint_leaves import (
  dtype_and_shape,
  named_leaves,
  place_like,
  restore_target,
  storage_keys,
  to_host,
)
from fedjax_norm.typing import PyTree

_CHECKSUMS = "checksums.json"
# After a failed save: number of attempts to delete its folder, and seconds between them.
_DELETE_TRIES, _DELETE_SECONDS = 20, 0.25


class Checkpoints:
  """Saves and restores the newest checkpoints of one run; a context manager.

  ``save`` returns when the checkpoint is complete on the disk: it is written under a temporary
  name and renamed when complete, so a kill at any moment leaves the previous checkpoint readable.
  A checkpoint has a checksum of each of its files. If the run has several processes, each of
  them calls every method.

  A damaged checkpoint is never deleted: ``restore`` logs a warning and uses the previous one, and
  the next ``save`` moves the damaged one into the subfolder ``damaged``.
  """

  def __init__(self, path: str | os.PathLike, keep: int = 2):
    """Opens the folder, created if missing, and deletes the files of an interrupted save.

    Args:
      path: the folder of the checkpoints, which contains nothing else.
      keep: number of checkpoints to keep. With 2 or more, the run can still be resumed if the
        newest one is damaged.

    Raises:
      ValueError: ``keep`` is below 1.
      UserError: the folder cannot be created or is not writable.
    """
    if keep < 1:
      raise ValueError(f"keep is {keep}, but at least one checkpoint has to be kept.")
    self.path = Path(path).expanduser().absolute()
    self.keep = keep
    self._unreadable: set[int] = set()
    make_folder(self.path)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(keep),
      # ``save`` waits for the disk, which is faster without a background thread.
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
    """Returns the largest of ``rounds()``; None if there is no such checkpoint."""
    return max(self.rounds(), default=None)

  def rounds(self) -> list[int]:
    """Returns the rounds of all complete checkpoints not known to be damaged, in any order."""
    return [r for r in self._manager.all_steps() if r not in self._unreadable]

  def save(self, round: int, tree: PyTree) -> None:
    """Saves a state, and deletes all checkpoints except the newest ``keep``.

    Args:
      round: number of completed rounds; larger than the round of every checkpoint.
      tree: the state: a tree of numbers and of arrays of any dtype except typed random keys.

    Raises:
      ValueError: this round or a later one already has a checkpoint.
      OSError: the files cannot be written; the previous checkpoint remains the newest.
    """
    if (last := self.latest()) is not None and round <= last:
      raise ValueError(f"Round {round} is not after round {last}, the last checkpoint.")
    self._move_damaged()
    names, leaves = named_leaves(tree)
    arrays = [to_host(leaf) for leaf in leaves]
    layout = [[name, *dtype_and_shape(array)] for name, array in zip(names, arrays, strict=True)]
    args = {"layout": ocp.args.JsonSave({"leaves": layout})}
    # The layout describes empty arrays completely, and Orbax cannot store empty items.
    stored = {k: a for k, a in zip(storage_keys(names), arrays, strict=True) if a.size}
    if stored:
      args["arrays"] = ocp.args.StandardSave(stored)
    with self._writing(round):
      with orbax_errors.quiet():
        self._manager.save(round, args=ocp.args.Composite(**args), force=True)
        self._manager.wait_until_finished()
      if jax.process_index() == 0:
        folder = self.path / str(round)
        # Written last. If a kill comes first, the checkpoint is restored without verification.
        write_atomic(folder / _CHECKSUMS, json.dumps(_checksums(folder)).encode())

  def restore(self, template: PyTree) -> PyTree:
    """Restores the newest undamaged checkpoint, bit for bit; logs a warning per damaged one.

    Args:
      template: a tree with the structure, shapes and dtypes of the saved state. Where it has a JAX
        array, the restored array is one on the same devices; all other leaves are NumPy arrays.

    Returns:
      The state in the structure of ``template``; ``latest()`` is its round.

    Raises:
      UserError: there is no undamaged checkpoint, its files cannot be read, or its arrays differ
        from the template in path, dtype or shape.
    """
    rounds = sorted(self.rounds(), reverse=True)
    for round in rounds:
      try:
        return self._restore(round, template)
      except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
      except PermissionError as error:
        raise UserError(
          f"The checkpoint of round {round} in {self.path} cannot be read; change its permissions."
        ) from error
      except Exception as error:  # Orbax raises many types on damaged bytes
        if jax.process_count() > 1 and is_network_error(error):
          raise
        text = "The checkpoint of round %d in %s is damaged and is not used (%s)."
        logging.warning(text, round, self.path, type(error).__name__)
        self._unreadable.add(round)
    raise UserError(
      f"Every checkpoint in {self.path} is damaged; restore the folder from a copy or pass "
      "another --workdir."
      if rounds or self._unreadable
      else f"There is no checkpoint in {self.path}; pass the --workdir of a run that saved one."
    )

  def close(self) -> None:
    """Releases the resources of Orbax, the library that writes the checkpoints."""
    with orbax_errors.quiet():
      self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
    if isinstance(error, KeyboardInterrupt) and (last := self.latest()) is not None:
      error.add_note(
        f"round {last} is saved in {self.path}, and the same --workdir resumes from it"
      )
    self.close()

  @contextlib.contextmanager
  def _writing(self, round: int) -> Iterator[None]:
    """If writing fails in the block, deletes the checkpoint of the round and raises ``OSError``."""
    try:
      yield
    except Exception as error:
      code = orbax_errors.errno_of(error)
      if code is None:
        raise
      for _ in range(_DELETE_TRIES):  # threads that are still writing create the folder again
        for folder in self.path.glob(f"{round}.*"):
          shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_DELETE_SECONDS)
        if not any(self.path.glob(f"{round}.*")):
          break
      raise OSError(code, os.strerror(code), str(self.path)) from error

  def _move_damaged(self) -> None:
    if not self._unreadable:
      return
    # All processes wait below, so that none saves while the first process still moves folders.
    if jax.process_index() == 0:
      damaged = self.path / "damaged"
      damaged.mkdir(exist_ok=True)
      for round in self._unreadable:
        target = damaged / str(round)
        copies = 1
        while target.exists():
          copies += 1
          target = damaged / f"{round}-{copies}"
        os.replace(self.path / str(round), target)
    if jax.process_count() > 1:
      ocp.multihost.sync_global_processes("fedjax_norm_damaged_aside")
    self._unreadable = set()
    with orbax_errors.quiet():
      self._manager.reload()

  def _restore(self, round: int, template: PyTree) -> PyTree:
    # Verified before Orbax opens the files, because Orbax logs many lines about damaged files.
    file = self.path / str(round) / _CHECKSUMS
    if file.exists() and json.loads(file.read_bytes()) != _checksums(file.parent):
      raise ValueError("checksum")
    with orbax_errors.quiet():
      args = ocp.args.Composite(layout=ocp.args.JsonRestore())
      saved = self._manager.restore(round, args=args)["layout"]["leaves"]
    names, leaves = named_leaves(template)
    expected = {name: dtype_and_shape(leaf) for name, leaf in zip(names, leaves, strict=True)}
    self._check_fit(round, {name: (dtype, shape) for name, dtype, shape in saved}, expected)
    keys = storage_keys(names)
    targets = {k: restore_target(leaf) for k, leaf in zip(keys, leaves, strict=True) if leaf.size}
    arrays = {}
    if targets:
      with orbax_errors.quiet():
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(targets))
        arrays = self._manager.restore(round, args=args)["arrays"]
    restored = [
      place_like(arrays[k] if k in arrays else np.empty(leaf.shape, leaf.dtype), leaf)
      for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), restored)

  def _check_fit(self, round: int, saved: dict[str, Any], expected: dict[str, Any]) -> None:
    def describe(leaves: dict[str, Any], name: str) -> str:
      return "{}{}".format(*leaves[name]) if name in leaves else "absent"

    if differing := [n for n in {**saved, **expected} if saved.get(n) != expected.get(n)]:
      name = differing[0]
      more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
      raise UserError(
        f"The checkpoint of round {round} in {self.path} does not fit this run: array "
        f"state{name} is saved as {describe(saved, name)} and expected as "
        f"{describe(expected, name)}{more}; pass the flags of the saved run or another --workdir."
      )


def _checksums(folder: Path) -> dict[str, int]:
  files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(_CHECKSUMS))
  return {f.relative_to(folder).as_posix(): zlib.crc32(f.read_bytes()) for f in files}
