"""``experiments.leakage`` as a user runs it, and the preprocessing of the same model."""

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
from fedjax_norm.cli.finished_run import check_single_model, saved_options
from fedjax_norm.cli.flags import define
from fedjax_norm.errors import UserError

QUICK = ("--attack_steps=1", "--cuts=conv3", "--examples=40", "--known_labels=2")
MODEL = ("--clients=4", "--norm=gn", "--whiten=gcn_zca")
DATA = "--data=synthetic:classes=4,train=64,test=32,size=6"


@pytest.fixture
def leakage_run(capsys, tmp_path, monkeypatch):
  """(*flags) -> (exit code, stdout, stderr)."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    client_mapping, "use_host_devices", lambda count: None
  )  # JAX has started with two

  def run(*arguments: str):
    values = flags.FlagValues()
    define(LeakageFlags, values)
    values(["leakage", *arguments])
    return app.execute(leakage.main, LeakageFlags, values), *capsys.readouterr()

  return run


def rows(path: str) -> list[dict[str, str]]:
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_the_model_of_a_run_is_measured_and_so_is_that_of_flags(fedavg_run, leakage_run):
  assert fedavg_run("--whiten=gcn_zca", "--norm=gn", "--lr=0.3", "--workdir=run").code == 0
  assert json.loads(Path("run/config.json").read_text())["whiten"] == "gcn_zca"
  code, out, err = leakage_run("--workdir=run", *QUICK)
  assert code == 0, err
  assert re.search(r"conv3 +3x3x64 ", out)
  assert "16 test images attacked with 16 others" in out
  (trained,) = rows("run/leakage.csv")
  assert (
    0 < float(trained["distance_correlation_corrected"]) < float(trained["distance_correlation"])
  )
  assert 0 < float(trained["reconstruction_error"]) < 1.5
  assert Path("run/leakage.png").stat().st_size > 10_000

  code, out, err = leakage_run(DATA, *MODEL, *QUICK)
  assert code == 0, err
  (untrained,) = rows(out.split("written: ")[1].split(",")[0])
  # A dense layer behind a mean: of a model that knows nothing yet, gradients are the labels.
  assert untrained["labels_by_known"] == untrained["labels_by_clusters"] == "1.0"
  assert float(untrained["labels_shuffled"]) < 0.6
  assert float(untrained["labels_chance"]) < 0.4
  assert trained["labels_chance"] == untrained["labels_chance"]
  assert trained["distance_correlation"] != untrained["distance_correlation"]

  # What the run began with is what the same flags say, and what it ended with is what it left.
  given = {"data": DATA.partition("=")[2], "clients": 4, "norm": "gn", "whiten": "gcn_zca"}
  begun, variables, _ = leakage._of_run(LeakageFlags(workdir="run", untrained=True))
  said, expected, _ = leakage._of_flags(LeakageFlags(**given))
  jax.tree.map(np.testing.assert_array_equal, variables, expected)
  images = said.source.test.images
  np.testing.assert_array_equal(begun.eval_transform(images), said.eval_transform(images))
  last = leakage._of_run(LeakageFlags(workdir="run"))[1]
  assert not np.array_equal(
    last["params"]["Conv_0"]["kernel"], expected["params"]["Conv_0"]["kernel"]
  )

  # Where clients keep their statistics, or norms, nobody has what the run saved.
  saved = json.loads(Path("run/config.json").read_text())
  for kept in ({"batch_stats": "local"}, {"fedbn": True, "batch_stats": None}):
    Path("run/config.json").write_text(json.dumps({**saved, "norm": "bn", **kept}))
    code, _, err = leakage_run("--workdir=run", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "have local running statistics" in err
  # What experiments.decentralized saves is the mean of the partitions' models, but for bsp.
  task = SimpleNamespace(model=SimpleNamespace(norm=norm.create("bn")))
  of_partitions = {"skewscout": None, "batch_stats": "local"}
  check_single_model({**of_partitions, "algorithm": "fedavg"}, task, "run")
  with pytest.raises(UserError, match="local running statistics"):
    check_single_model({**of_partitions, "algorithm": "bsp"}, task, "run")
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
def test_the_options_of_a_run_are_those_of_its_algorithm(saved, method):
  flags = saved_options({**saved, "batch_size": 8})
  assert (flags.batch_size, flags.momentum) == (8, 0.9)
  assert getattr(flags.row, "name", None) == method


def test_an_ensemble_is_no_one_model(monkeypatch):
  saved = {"algorithm": "split", "members": "tiny:conv1,tiny:conv2"}
  monkeypatch.setattr(leakage, "load_run", lambda path: (saved, {}))
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
def test_what_would_do_nothing_is_one_sentence(leakage_run, arguments, words):
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
    (("--whiten=zca", "--standardise"), "drop one of them"),
  ],
)
def test_preprocessing_that_contradicts_is_refused(fedavg_run, arguments, words):
  result = fedavg_run(*arguments)
  assert result.code == 2
  assert words in result.err
