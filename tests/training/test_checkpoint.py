import os
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from helpers.binaries import PYTHONPATH

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import checkpoint
from fedjax_norm.training.storage.checkpoint import Checkpoints


class State(NamedTuple):
  params: Any
  extra: Any = ()


def state(seed=0.0):
  return State(
    {"a b/c.d": {"kernel": jnp.arange(6.0).reshape(2, 3) / 7 + seed}, "a b/c": jnp.float32(seed)},
    ((), np.arange(3), [np.float64(1 / 3), 3, 0.1, True], {}, None, jnp.zeros((0, 4), jnp.int8)),
  )


def same_bits(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def damage(folder, round, how):
  step = folder / str(round)
  files = sorted(f for f in (step / "arrays").rglob("*") if f.is_file() and f.parent.name == "d")
  if how == "cut":
    for file in files:
      file.write_bytes(file.read_bytes()[:3])
  elif how == "flipped":
    for file in files:
      data = bytearray(file.read_bytes())
      for i in range(len(data) // 4, len(data), 7):
        data[i] ^= 0x10
      file.write_bytes(bytes(data))
  elif how == "missing":
    for file in files:
      file.unlink()
  elif how == "layout":
    (step / "layout" / "metadata").write_text('{"leaves": [[')
    (step / "checksums.json").unlink()  # so that the damage is noticed by reading the layout
  elif how == "checksums":
    (step / "checksums.json").write_text("{")


def test_a_state_comes_back_bit_for_bit_in_its_structure(tmp_path):
  with Checkpoints(tmp_path) as saved:
    saved.save(3, state(0.5))
    same_bits(saved.restore(state()), state(0.5))
  with Checkpoints(tmp_path) as saved:
    assert saved.latest() == 3
    same_bits(saved.restore(state()), state(0.5))


@pytest.mark.parametrize(
  "dtype", ["bool", "int8", "uint8", "int32", "uint32", "float16", "bfloat16", "float32"]
)
def test_every_dtype_keeps_its_bits(tmp_path, dtype):
  raw = np.random.default_rng(0).integers(0, 256, (5, 8), dtype=np.uint8)
  array = raw % 2 == 0 if dtype == "bool" else raw.view(jnp.dtype(dtype))
  with Checkpoints(tmp_path) as saved:
    saved.save(0, {"jax": jnp.asarray(array), "numpy": array, "fortran": np.asfortranarray(array)})
    restored = saved.restore({"jax": jnp.asarray(array), "numpy": array, "fortran": array})
  same_bits(restored, {"jax": jnp.asarray(array), "numpy": array, "fortran": array})


def test_special_floats_and_weak_types_are_kept(tmp_path):
  floats = np.array([0x7FC00001, 0x80000000, 1, 0x7F800000], np.uint32).view(np.float32)
  tree = (jnp.asarray(floats), jnp.asarray(2.5), jnp.asarray(3), jnp.float32(2.5))
  with Checkpoints(tmp_path) as saved:
    saved.save(1, tree)
    restored = saved.restore(tree)
  same_bits(restored, tree)
  assert [a.weak_type for a in restored] == [False, True, True, False]


def test_a_committed_array_returns_to_its_device(tmp_path):
  device = jax.devices()[-1]
  tree = (jax.device_put(jnp.ones(3), device), jnp.ones(3))
  with Checkpoints(tmp_path) as saved:
    saved.save(1, tree)
    restored = saved.restore(tree)
  assert [a.committed for a in restored] == [True, False]
  assert restored[0].sharding == tree[0].sharding


@pytest.mark.parametrize("empty", [(), {}, State({}), np.zeros((3, 0))])
def test_a_state_without_elements(tmp_path, empty):
  with Checkpoints(tmp_path) as saved:
    saved.save(1, empty)
    same_bits(saved.restore(empty), empty)


def test_the_oldest_checkpoints_are_deleted(tmp_path):
  with Checkpoints(tmp_path, keep=2) as saved:
    assert saved.latest() is None
    for round in (1, 2, 10):
      saved.save(round, state(round))
      assert saved.latest() == round
    same_bits(saved.restore(state()), state(10))
    for round in (10, 9):
      with pytest.raises(ValueError, match="not after round 10"):
        saved.save(round, state())
  assert sorted(os.listdir(tmp_path)) == ["10", "2"]


@pytest.mark.parametrize(
  ("template", "sentence"),
  [
    (
      {"a": np.zeros((2, 3), np.float32)},
      r"state\['b'\] is saved as int64\[3\] and expected as absent",
    ),
    ({"a": np.zeros((2, 3), np.float32), "c": np.zeros(3)}, "and 1 more differ"),
    (
      {"a": np.zeros((3, 2), np.float32), "b": np.arange(3)},
      r"state\['a'\] is saved as float32\[2, 3\] and expected as float32\[3, 2\]",
    ),
    ({"a": np.zeros((2, 3), np.float16), "b": np.arange(3)}, r"expected as float16\[2, 3\]"),
    ((np.zeros((2, 3), np.float32), np.arange(3)), r"state\['a'\] .* expected as absent"),
  ],
)
def test_a_state_of_another_structure_is_refused_with_its_path(tmp_path, template, sentence):
  with Checkpoints(tmp_path) as saved:
    saved.save(7, {"a": np.ones((2, 3), np.float32), "b": np.arange(3)})
    with pytest.raises(UserError, match=sentence) as caught:
      saved.restore(template)
    assert "round 7" in str(caught.value)
    assert saved.latest() == 7


def test_nothing_to_restore(tmp_path):
  with Checkpoints(tmp_path) as saved, pytest.raises(UserError, match="no checkpoint"):
    saved.restore(state())


@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "layout", "checksums"])
def test_a_damaged_newest_checkpoint_is_reported_and_moved_and_the_previous_one_used(
  tmp_path, how, monkeypatch
):
  warnings = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: warnings.append(text % args))
  with Checkpoints(tmp_path) as saved:
    saved.save(1, state(1))
    saved.save(2, state(2))
  damage(tmp_path, 2, how)
  for _ in range(2):  # opening the folder twice reports it twice
    with Checkpoints(tmp_path) as saved:
      same_bits(saved.restore(state()), state(1))
      assert saved.latest() == 1
  assert len(warnings) == 2
  assert "round 2" in warnings[0]
  with Checkpoints(tmp_path) as saved:
    saved.restore(state())
    saved.save(2, state(2.5))
    same_bits(saved.restore(state()), state(2.5))
  assert sorted(os.listdir(tmp_path)) == ["1", "2", "damaged"]
  assert os.listdir(tmp_path / "damaged") == ["2"]


def test_one_flipped_bit_is_noticed(tmp_path, monkeypatch):
  # Noise cannot be compressed, so the stored bytes are those of the array.
  noise = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)
  monkeypatch.setattr(logging, "warning", lambda *_: None)
  with Checkpoints(tmp_path) as saved:
    saved.save(1, noise)
  large = max((tmp_path / "1").rglob("*"), key=lambda f: f.stat().st_size if f.is_file() else 0)
  data = bytearray(large.read_bytes())
  data[len(data) // 2] ^= 1
  large.write_bytes(bytes(data))
  with Checkpoints(tmp_path) as saved, pytest.raises(UserError, match="Every checkpoint"):
    saved.restore(noise)


def test_a_kill_before_the_checksums_leaves_a_complete_checkpoint(tmp_path, monkeypatch):
  def killed(*_):
    raise KeyboardInterrupt

  with Checkpoints(tmp_path) as saved:
    saved.save(1, state(1))
    monkeypatch.setattr(checkpoint, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
      saved.save(2, state(2))
  with Checkpoints(tmp_path) as saved:
    same_bits(saved.restore(state()), state(2))


def test_the_network_error_of_a_lost_process_is_not_reported_as_damage(tmp_path, monkeypatch):
  with Checkpoints(tmp_path) as saved:
    saved.save(1, state(1))

    def disconnected(*_, **__):
      raise ValueError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer")

    with monkeypatch.context() as patch:
      patch.setattr(jax, "process_count", lambda: 2)
      patch.setattr(saved._manager, "restore", disconnected)
      with pytest.raises(ValueError, match="Gloo"):
        saved.restore(state())
    same_bits(saved.restore(state()), state(1))


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
  with Checkpoints(tmp_path) as saved:
    saved.save(1, state(1))
    save = saved._manager.save

    def full(round, **arguments):
      save(round, **arguments)
      (tmp_path / str(round)).rename(tmp_path / f"{round}.orbax-checkpoint-tmp")
      raise ValueError("Failed to write: No space left on device [os_error_code='28']")

    with monkeypatch.context() as patch:
      patch.setattr(saved._manager, "save", full)
      with pytest.raises(OSError, match="No space left") as caught:
        saved.save(2, state(2))
  assert caught.value.filename == str(tmp_path)
  assert os.listdir(tmp_path) == ["1"]


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="cannot be created"):
    Checkpoints(tmp_path / "file")
  with pytest.raises(ValueError, match="keep is 0"):
    Checkpoints(tmp_path / "new", keep=0)
  monkeypatch.setattr(os, "access", lambda *_: False)
  with pytest.raises(UserError, match="not writable"):
    Checkpoints(tmp_path / "new")


_SAVE_FOREVER = """
import sys
import numpy as np
from fedjax_norm.training.storage.checkpoint import Checkpoints
with Checkpoints(sys.argv[1]) as saved:
  round = (saved.latest() or 0) + 1
  while True:
    saved.save(round, {'round': np.int64(round), 'data': np.full((8, 4096), round, np.float32)})
    print(round, flush=True)
    round += 1
"""


def test_a_kill_at_any_moment_leaves_the_last_complete_checkpoint(tmp_path):
  template = {"round": np.int64(0), "data": np.zeros((8, 4096), np.float32)}
  random = np.random.default_rng(0)
  for _ in range(3):
    child = subprocess.Popen(
      [sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)],
      stdout=subprocess.PIPE,
      env={**os.environ, "PYTHONPATH": PYTHONPATH, "JAX_PLATFORMS": "cpu"},
    )
    for _ in range(3):
      assert child.stdout.readline()
    time.sleep(random.uniform(0, 0.08))
    child.send_signal(signal.SIGKILL)
    last_printed = int((child.stdout.read().split() or [b"0"])[-1])
    child.wait()
    child.stdout.close()
    with Checkpoints(tmp_path) as saved:
      restored = saved.restore(template)
      assert saved.latest() == restored["round"] >= last_printed
    assert (restored["data"] == restored["round"]).all()
  assert not [name for name in os.listdir(tmp_path) if not name.isdigit()]
