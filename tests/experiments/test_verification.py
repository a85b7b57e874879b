"""Runs with ``--task=verification``."""

import json
import types
from pathlib import Path

import pytest
from flax import linen as nn
from helpers.run_bits import read as rows

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


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--evaluate_clients=2",), "drop --evaluate_clients"),
    (("--model=tiny",), "no embedding"),
    (("--task=classification",), "choose the task verification"),
    (("--data=identities:identities=3",), "at least 4"),
    (("--data_dir=x",), "data_dir"),
  ],
)
def test_errors_are_one_sentence(fedavg_run, options, message):
  result = fedavg_run(*FLAGS, *options)
  assert result.code == 2
  assert message in result.err
  assert result.err.count("\n") == 1
