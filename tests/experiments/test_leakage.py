"""``experiments.leakage`` as users run it, and the preprocessing of the same model."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags

from fedjax_norm import client_mapping, norm
from fedjax_norm.cli import app
from fedjax_norm.cli.commands import leakage
from fedjax_norm.cli.commands.leakage import LeakageFlags
from fedjax_norm.cli.finished_run import saved_options
from fedjax_norm.cli.flags import define
from fedjax_norm.errors import UserError
from fedjax_norm.training.finished_run import check_single_model

QUICK = ("--attack_steps=1", "--cuts=conv3", "--examples=40", "--known_labels=2")
MODEL = ("--clients=4", "--norm=gn", "--whiten=gcn_zca")
DATA = "--data=synthetic:classes=4,train=64,test=32,size=6"


@pytest.fixture
def leakage_run(capsys, tmp_path, monkeypatch):
  """A function: flags -> (exit code, stdout, stderr)."""
  monkeypatch.chdir(tmp_path)
  # JAX already runs with two devices.
  monkeypatch.setattr(client_mapping, "use_host_devices", lambda count: None)

  def run(*arguments: str):
    values = flags.FlagValues()
    define(LeakageFlags, values)
    values(["leakage", *arguments])
    return app.execute(leakage.main, LeakageFlags, values), *capsys.readouterr()

  return run


def rows(path: str) -> list[dict[str, str]]:
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


@pytest.mark.long
def test_the_model_of_a_run_and_that_of_flags_are_measured(fedavg_run, leakage_run):
  assert fedavg_run("--whiten=gcn_zca", "--norm=gn", "--lr=0.3", "--workdir=run").code == 0
  assert json.loads(Path("run/config.json").read_text())["whiten"] == "gcn_zca"
  code, out, err = leakage_run("--workdir=run", *QUICK)
  assert code == 0, err
  assert re.search(r"conv3 +3x3x64 ", out)
  assert "16 test images were attacked with the help of 16 others" in out
  (trained,) = rows("run/leakage.csv")
  assert (
    0 < float(trained["distance_correlation_corrected"]) < float(trained["distance_correlation"])
  )
  assert 0 < float(trained["reconstruction_error"]) < 1.5
  assert Path("run/leakage.png").stat().st_size > 10_000

  code, out, err = leakage_run(DATA, *MODEL, *QUICK)
  assert code == 0, err
  (untrained,) = rows(out.split("written: ")[1].split(",")[0])
  # After a mean and a dense layer, the gradients of an untrained model reveal all labels.
  assert untrained["labels_by_known"] == untrained["labels_by_clusters"] == "1.0"
  assert float(untrained["labels_shuffled"]) < 0.6
  assert float(untrained["labels_chance"]) < 0.4
  assert trained["labels_chance"] == untrained["labels_chance"]
  assert trained["distance_correlation"] != untrained["distance_correlation"]

  # --untrained measures the initial model that the same flags give; otherwise the final model.
  given = {"data": DATA.partition("=")[2], "clients": 4, "norm": "gn", "whiten": "gcn_zca"}
  task, variables, _ = leakage._of_run(LeakageFlags(workdir="run", untrained=True))
  expected_task, expected, _ = leakage._of_flags(LeakageFlags(**given))
  jax.tree.map(np.testing.assert_array_equal, variables, expected)
  images = expected_task.source.test.images
  np.testing.assert_array_equal(task.eval_transform(images), expected_task.eval_transform(images))
  last = leakage._of_run(LeakageFlags(workdir="run"))[1]
  assert not np.array_equal(
    last["params"]["Conv_0"]["kernel"], expected["params"]["Conv_0"]["kernel"]
  )

  # A model whose statistics or norms stay on the clients is refused.
  saved = json.loads(Path("run/config.json").read_text())
  for local in ({"batch_stats": "local"}, {"fedbn": True, "batch_stats": None}):
    Path("run/config.json").write_text(json.dumps({**saved, "norm": "bn", **local}))
    code, _, err = leakage_run("--workdir=run", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "have local running statistics" in err
  # experiments.decentralized saves the mean of the partitions' models, except for bsp.
  bn = norm.create("bn")
  decentralized = {"skewscout": None, "batch_stats": "local"}
  check_single_model({**decentralized, "algorithm": "fedavg"}, bn, "run")
  with pytest.raises(UserError, match="local running statistics"):
    check_single_model({**decentralized, "algorithm": "bsp"}, bn, "run")
  assert leakage._of_run(LeakageFlags(workdir="run", untrained=True))[2].endswith("untrained")


@pytest.mark.parametrize(
  ("saved", "method"),
  [
    ({"algorithm": "fedavg", "momentum": None}, "fedavg"),
    ({"algorithm": "fedavg", "skewscout": None}, "periodic"),
    ({"algorithm": "periodic", "skewscout": "hill"}, "periodic"),
    ({"algorithm": "splitfed_v1", "cut": "conv1"}, "splitfed_v1"),
    ({"algorithm": "distil", "epochs": 3}, None),
  ],
)
def test_saved_options_have_the_class_of_the_algorithm(saved, method):
  flags = saved_options({**saved, "batch_size": 8})
  assert (flags.batch_size, flags.momentum) == (8, 0.9)
  assert getattr(flags.row, "name", None) == method


def test_a_run_of_an_ensemble_is_refused(monkeypatch):
  saved = {"algorithm": "split", "members": "tiny:conv1,tiny:conv2"}
  monkeypatch.setattr(leakage, "load_run", lambda path: SimpleNamespace(config=saved, variables={}))
  with pytest.raises(UserError, match="trained an ensemble"):
    leakage._of_run(LeakageFlags(workdir="run"))


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--workdir=nowhere",), "holds no run"),
    (("--workdir=run", "--model=lenet"), "--model does nothing here"),
    (("--untrained",), "--untrained does nothing here"),
    (("--attack_steps=0",), "at least 1"),
  ],
)
def test_bad_input_gives_an_error_of_one_sentence(leakage_run, arguments, words):
  code, _, err = leakage_run(*arguments)
  assert code == 2
  assert err.startswith("error: ")
  assert err.count("\n") == 1
  assert words in err


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--zca_epsilon=0.1",), "--whiten=zca or gcn_zca"),
    (("--whiten=zca", "--subtract=image"), "subtracts the mean image itself"),
    (("--whiten=zca", "--standardise"), "drop --standardise or --whiten=zca"),
  ],
)
def test_contradictory_preprocessing_is_refused(fedavg_run, arguments, words):
  result = fedavg_run(*arguments)
  assert result.code == 2
  assert words in result.err
