"""A finished run's model is loaded bit for bit, and a folder without one is refused."""

import jax
import numpy as np
import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.training.finished_run import load_run
from fedjax_norm.training.storage.final_model import save_model
from fedjax_norm.training.storage.run_folder import RunFolder

VARIABLES = {
  "params": {"Conv_0": {"kernel": np.random.default_rng(0).random((3, 2), np.float32)}},
  "batch_stats": {"Norm_0": {"mean": np.float32([1, np.pi])}},
}


@pytest.fixture
def folder(tmp_path):
  with RunFolder.open(tmp_path / "run", {"model": "tiny", "seed": 3}) as folder:
    save_model(folder.path, VARIABLES)
  return folder.path


def test_the_saved_model_is_loaded(folder):
  run = load_run(folder)
  assert run.config == {"model": "tiny", "seed": 3}
  variables = run.variables
  assert jax.tree.structure(variables) == jax.tree.structure(VARIABLES)
  jax.tree.map(np.testing.assert_array_equal, variables, VARIABLES)


def test_a_missing_run_a_missing_model_and_a_damaged_one_are_refused(folder, tmp_path):
  with pytest.raises(UserError, match="holds no run"):
    load_run(tmp_path)
  model = folder / "model.msgpack"
  data = model.read_bytes()
  model.write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match="damaged"):
    load_run(folder)
  model.unlink()
  with pytest.raises(UserError, match="run it to its end"):
    load_run(folder)
  (folder / "seed_3").mkdir()
  (folder / "seed_3" / "model.msgpack").write_bytes(data)
  with pytest.raises(UserError, match="seed_3"):
    load_run(folder)
