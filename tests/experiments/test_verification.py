"""Runs with ``--task=verification``."""

import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest
from flax import linen as nn
from helpers.run_bits import read as rows
from helpers.small_data import flat, write

from fedjax_norm.cli import methods, train
from fedjax_norm.cli.commands import compare
from fedjax_norm.models import registry
from fedjax_norm.models.layers import Dense
from fedjax_norm.norm import Norm, NormSpec

FLAGS = ("--data=identities:identities=48,images=4,size=8", "--task=verification", "--model=face")


class Flat(nn.Module):
  """Embeds an image by a dense layer and the norm: fast to compile."""

  norm: NormSpec
  num_classes: int

  def setup(self):
    self.dense, self.after = Dense(8, self.norm), Norm(self.norm)
    self.classifier = Dense(self.num_classes, self.norm)

  def embed(self, x, mode):
    return self.after(self.dense(x.reshape(len(x), -1), mode), mode)

  def __call__(self, x, mode):
    return self.classifier(self.embed(x, mode), mode)


@pytest.fixture(autouse=True)
def _small_face(monkeypatch):
  entry = registry.MODELS["face"]._replace(build=Flat, min_size=8)
  models = {**registry.MODELS, "face": entry}
  monkeypatch.setattr(registry, "MODELS", types.MappingProxyType(models))


def test_a_run_classifies_pairs(fedavg_run):
  """FedBN: each client has a model, and therefore a threshold."""
  result = fedavg_run(*FLAGS, "--fedbn", "--rounds=2", "--seeds=2", "--workdir=run")
  assert result.code == 0, result.err
  last, ends = rows("run/seed_0")[-1], result.out.split("result\n")
  assert "pairs right  " in ends[1]
  assert " ± " in ends[1]
  assert "seed  pairs right  test loss" in ends[2]
  assert not any("top-" in end for end in ends[1:])
  summary = json.loads(Path("run/seed_0/summary.json").read_text())
  for name in ("top1", "threshold", "verification_error", "loss"):
    assert float(last[name]) == summary[name]
  assert "top5" not in last
  assert 0.5 <= summary["top1"] <= 1
  assert summary["verification_error"] > 0
  assert "top1_std" in json.loads(Path("run/summary.json").read_text())
  table = compare.compare(compare.CompareFlags(), "run/seed_0", "run/seed_1")
  assert "pairs right" in table


def test_given_pairs_are_those_of_the_file(tmp_path):
  """Each image's colour says whose it is and which number it has."""
  for split, identities in (("train", range(20, 22)), ("test", range(20))):
    for k, i in itertools.product(identities, (1, 2)):
      write(tmp_path / split / f"P{k:02}" / f"P{k:02}_{i:04}.png", flat(10 * k + i, 8))
  lines = [line for k in range(0, 20, 2) for line in (f"P{k:02} 2 1", f"P{k:02} 1 P{k + 1:02} 2")]
  (tmp_path / "pairs.txt").write_text("\n".join(["10\t1", *lines]) + "\n")
  data = {"data": f"folder:{tmp_path}", "task": "verification", "model": "face"}
  config = methods.FEDAVG_CONFIG(**data, pairs=str(tmp_path / "pairs.txt"), clients=2)
  _, task = train.prepare(config, train.load(config))
  shown = task.source.test.images[:, 0, 0, 0]
  even = 10 * np.arange(0, 20, 2)
  first, second = (np.stack([even + a, even + b], 1).ravel() for a, b in ((2, 1), (1, 12)))
  np.testing.assert_array_equal(shown[task.pairs.first], first)
  np.testing.assert_array_equal(shown[task.pairs.second], second)
  np.testing.assert_array_equal(task.pairs.same, np.tile([True, False], 10))
  np.testing.assert_array_equal(task.pairs.fold, np.repeat(np.arange(10), 2))
  # A run is not resumed with other pairs.
  saved = config.saved()
  assert config.saved() == saved
  (tmp_path / "pairs.txt").write_text("10\t1\n")
  changed = config.saved()
  assert {name for name in saved if saved[name] != changed[name]} == {"pairs"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--evaluate_clients=2",), "drop --evaluate_clients"),
    (("--model=tiny",), "no embedding"),
    (("--task=classification",), "choose the task verification"),
    (("--data=identities:identities=3",), "at least 4"),
    (("--data_dir=x",), "data_dir"),
    (("--pairs=pairs.txt",), "use folder: or csv: data"),
    (("--pairs=pairs.txt", "--task=classification"), "it needs --task=verification"),
  ],
)
def test_errors_are_one_sentence(fedavg_run, options, message):
  result = fedavg_run(*FLAGS, *options)
  assert result.code == 2
  assert message in result.err
  assert result.err.count("\n") == 1
