"""Checkpoints of a run's state: on the disk when ``save`` returns, verified when restored."""

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
from fedjax_norm.training.storage import checkpoint_leaves, orbax_errors
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.typing import PyTree

_DAMAGED = "damaged"
_CHECKSUMS = "checksums.json"
# After a failed save: number of attempts to delete its folder, and seconds between them.
_DELETE_TRIES, _DELETE_SECONDS = 20, 0.25


class Checkpoints:
  """The last few checkpoints of one run; a context manager.

  ``save`` returns when the checkpoint is complete on the disk: it is written under a temporary
  name and renamed when complete, so a kill at any moment leaves the previous checkpoint readable.
  Every file has a checksum. With several processes, every process calls every method.

  A damaged checkpoint is never deleted: ``restore`` warns and uses the previous one, and the next
  ``save`` moves the damaged one into the subfolder ``damaged``. After ``restore``, ``latest``
  returns the restored round.
  """

  def __init__(self, path: str | os.PathLike, keep: int = 2):
    """Opens the folder, created if missing, and deletes the files of an interrupted save.

    Args:
      path: the folder of the checkpoints, which contains nothing else.
      keep: number of checkpoints to keep; from 2 on, a damaged one has a replacement.

    Raises:
      ValueError: ``keep`` is below 1.
      UserError: the folder cannot be used.
    """
    if keep < 1:
      raise ValueError(f"keep is {keep}; keep at least one checkpoint.")
    self.path = Path(path).expanduser().absolute()
    self.keep = keep
    self._unreadable: set[int] = set()
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
      raise UserError(
        f"The checkpoint folder {self.path} cannot be created because a file of that name "
        "exists; move it away or pass another --workdir."
      ) from error
    if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
      raise UserError(
        f"The checkpoint folder {self.path} is not writable; change its permissions or pass "
        "another --workdir."
      )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(keep),
      # Every save is waited for, which is faster without a background thread.
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
    """Returns the newest round with an undamaged checkpoint, or None."""
    return max(self.rounds(), default=None)

  def rounds(self) -> list[int]:
    """Returns the rounds with a complete checkpoint not known to be damaged, in any order."""
    return [r for r in self._manager.all_steps() if r not in self._unreadable]

  def save(self, round: int, tree: PyTree) -> None:
    """Saves a state, and deletes the oldest checkpoints beyond ``keep``.

    Args:
      round: number of completed rounds, above every saved round.
      tree: arrays of any shape and dtype (except typed random keys) and numbers, in any nesting.

    Raises:
      ValueError: this round or a later one already has a checkpoint.
      OSError: the files cannot be written; the previous checkpoint remains the newest.
    """
    last = self.latest()
    if last is not None and round <= last:
      raise ValueError(f"Round {round} is not after round {last}, the last checkpoint.")
    self._move_damaged()
    names, leaves = checkpoint_leaves.named_leaves(tree)
    arrays = [checkpoint_leaves.to_host(leaf) for leaf in leaves]
    layout = [
      [name, *checkpoint_leaves.dtype_and_shape(array)]
      for name, array in zip(names, arrays, strict=True)
    ]
    args = {"layout": ocp.args.JsonSave({"leaves": layout})}
    # The layout describes empty arrays completely, and Orbax cannot store empty items.
    stored = {
      k: a for k, a in zip(checkpoint_leaves.storage_keys(names), arrays, strict=True) if a.size
    }
    if stored:
      args["arrays"] = ocp.args.StandardSave(stored)
    with self._writing(round):
      with orbax_errors.quiet():
        self._manager.save(round, args=ocp.args.Composite(**args), force=True)
        self._manager.wait_until_finished()
      if jax.process_index() == 0:
        folder = self.path / str(round)
        # Written last: after a kill before this line the checkpoint is read without checksums.
        write_atomic(folder / _CHECKSUMS, json.dumps(_checksums(folder)).encode())

  def restore(self, template: PyTree) -> PyTree:
    """Restores the newest undamaged checkpoint, bit for bit, and warns about damaged ones.

    Args:
      template: a tree with the structure, shapes and dtypes of the saved state. Its jax arrays are
        restored as jax arrays on the same devices, all other leaves as NumPy arrays.

    Returns:
      The state in the structure of ``template``; ``latest`` returns its round.

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
          f"The checkpoint of round {round} in {self.path} cannot be read; change its permissions."
        ) from error
      except Exception as error:  # Orbax raises many types on damaged bytes
        if jax.process_count() > 1 and is_network_error(error):
          raise
        logging.warning(
          "The checkpoint of round %d in %s is damaged and is not used (%s).",
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
    """Closes the folder."""
    with orbax_errors.quiet():
      self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
    if isinstance(error, KeyboardInterrupt) and (last := self.latest()) is not None:
      error.add_note(f"round {last} is saved in {self.path}")
    self.close()

  @contextlib.contextmanager
  def _writing(self, round: int) -> Iterator[None]:
    """Turns Orbax's errors in the block into ``OSError``, and deletes the incomplete checkpoint."""
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
    # Every process waits below, so that none saves while the first one still moves folders.
    if jax.process_index() == 0:
      damaged = self.path / _DAMAGED
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

  def _verify(self, round: int) -> None:
    # Checked before Orbax opens the files, because it logs a lot about damaged ones.
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
    names, leaves = checkpoint_leaves.named_leaves(template)
    expected = {
      name: checkpoint_leaves.dtype_and_shape(leaf)
      for name, leaf in zip(names, leaves, strict=True)
    }
    self._check_fit(round, {name: (dtype, shape) for name, dtype, shape in saved}, expected)
    keys = checkpoint_leaves.storage_keys(names)
    targets = {
      k: checkpoint_leaves.restore_target(leaf) for k, leaf in zip(keys, leaves, strict=True)
    }
    targets = {k: target for k, target in targets.items() if target.size}
    arrays = {}
    if targets:
      with orbax_errors.quiet():
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(targets))
        arrays = self._manager.restore(round, args=args)["arrays"]
    restored = [
      checkpoint_leaves.place_like(
        arrays[key] if key in arrays else np.empty(leaf.shape, leaf.dtype), leaf
      )
      for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), restored)

  def _check_fit(self, round: int, saved: dict[str, Any], expected: dict[str, Any]) -> None:
    def describe(leaves: dict[str, Any], name: str) -> str:
      return "{}{}".format(*leaves[name]) if name in leaves else "absent"

    names = {**saved, **expected}
    differing = [name for name in names if saved.get(name) != expected.get(name)]
    if differing:
      name = differing[0]
      more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
      raise UserError(
        f"The checkpoint of round {round} in {self.path} does not fit this run: "
        f"state{name} is saved as {describe(saved, name)} and expected as "
        f"{describe(expected, name)}{more}; pass the flags of the saved run or another --workdir."
      )


def _checksums(folder: Path) -> dict[str, int]:
  files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(_CHECKSUMS))
  return {f.relative_to(folder).as_posix(): zlib.crc32(f.read_bytes()) for f in files}
