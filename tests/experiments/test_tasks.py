"""Runs with ``--task=regression`` and ``--task=segmentation``."""

import json
import types
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.finished_runs import write_run
from helpers.run_bits import read as rows
from helpers.small_data import put_cityscapes

from fedjax_norm.cli.commands import compare
from fedjax_norm.errors import UserError
from fedjax_norm.models import registry
from fedjax_norm.models.layers import Conv
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.typing import Array

DATA = "--data=synthetic:classes=4,train=64,test=32,size=8"
SEGMENTATION = ("--task=segmentation", "--model=fcn", DATA)


class Pixels(Staged):
  """A 1x1 convolution, the norm and a second 1x1 convolution: fast to compile."""

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Body, head."""

    def body(x: Array, mode: Mode) -> Array:
      x = Conv(8, (1, 1), self.norm, name="body")(x, mode)
      return jax.nn.relu(Norm(self.norm, name="norm")(x, mode))

    def head(x: Array, mode: Mode) -> Array:
      return Conv(self.num_classes, (1, 1), self.norm, use_bias=True, name="head")(x, mode)

    return ("body", body), ("head", head)


@pytest.fixture(autouse=True)
def _small_models(monkeypatch, tiny_net):
  small = {
    **registry.MODELS,
    "tiny": registry.MODELS["tiny"]._replace(build=tiny_net),
    "fcn": registry.MODELS["fcn"]._replace(build=Pixels),
  }
  monkeypatch.setattr(registry, "MODELS", types.MappingProxyType(small))


def test_regression_learns_and_prints_its_measures(decentralized_run):
  """Gaia with client models, and two seeds."""
  result = decentralized_run(
    *("--task=regression", "--algorithm=gaia", "--partition=iid", "--norm=none", "--lr=0.05"),
    *("--rounds=40", "--eval_every=40", "--seeds=2", "--workdir=run"),
  )
  assert result.code == 0, result.err
  last = rows("run/seed_0")[-1]
  summary = json.loads(Path("run/seed_0/summary.json").read_text())
  assert not {"top1", "top5", "train_top1"} & {*last, *summary}
  assert float(last["r2"]) > 0.5
  assert float(last["mse"]) == pytest.approx(float(last["rmse"]) ** 2)
  assert float(last["loss"]) < 0.25  # predicting the mean gives about 0.5
  for name in ("r2", "rmse", "mae", "models_r2"):
    assert summary[name] == float(last[name])
  assert float(last["models_r2_min"]) <= float(last["models_r2"]) <= 1
  assert "regression targets  brightness" in result.out
  words = " ".join(result.out.split())
  assert f"client models, R² mean {float(last['models_r2']):.4f}" in words
  assert "top-1" not in result.out
  titles = result.out.split("seed ")[-1].split("\n")[0].split()
  assert titles == ["R²", "rmse", "mae", "test", "loss"]

  options = compare.CompareFlags(target=0.01)
  table = compare.compare(options, "run/seed_0", "run/seed_1")
  assert table.split("\n")[0].split()[:3] == ["#", "contender", "R²,"]
  write_run(Path("other"), "fedavg", [0.5])
  with pytest.raises(UserError, match="different test measures, R² and top-1; name"):
    compare.compare(options, "run/seed_0", "other")


def test_segmentation_of_cities_learns_and_prints_the_classes_that_count(fedavg_run, tmp_path):
  """The upper quarter of each image has an id without a class, so it does not count."""
  rng = np.random.default_rng(0)
  for city, count in (("train/aachen", 6), ("train/bonn", 3), ("train/ulm", 4), ("val/lindau", 5)):
    for i in range(count):
      ids = rng.choice([7, 23], (4, 4)).repeat(4, 0).repeat(4, 1)  # road and sky
      ids[:4] = 0
      put_cityscapes(tmp_path, f"{city}/{i}", ids)
  result = fedavg_run(
    *(f"--data=masks:{tmp_path}", "--task=segmentation", "--model=fcn", "--norm=bn"),
    *("--clients=3", "--image_size=8", "--lr=0.5", "--rounds=20", "--eval_every=20"),
    "--workdir=run",
  )
  assert result.code == 0, result.err
  assert "aachen, bonn, ulm" in result.out
  last = {name: float(value) for name, value in rows("run")[-1].items() if value[:1].isdigit()}
  assert last["mean_iou"] > 0.9
  assert last["mean_iou"] == pytest.approx((last["iou_road"] + last["iou_sky"]) / 2)
  assert last["pixel_accuracy"] > 0.95
  assert abs(last["train_pixel_accuracy"] - last["pixel_accuracy"]) < 0.2
  assert "iou_car" not in last  # nan: no pixel has this class
  words = " ".join(result.out.split())
  assert f"IoU by class road {last['iou_road']:.1%}, sky {last['iou_sky']:.1%} test loss" in words
  assert Path("run/partition.png").is_file()
  assert Path("run/masks.png").is_file()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--task=segmentation",), "'tiny' does not support segmentation; choose one of fcn"),
    (("--model=fcn", DATA), "'fcn' does not support classification; choose one of tiny, lenet,"),
    (
      ("--task=regression", "--model=face"),
      "'face' does not support regression; choose one of tiny",
    ),
    (("--task=regression", "--data=identities"), "has no targets for regression"),
    (("--task=regression", "--evaluate_clients=2"), "regression has no label shares"),
    (("--task=regression", "--fine_tune_steps=1"), "regression has no label shares"),
    (("--task=regression", "--relabelled=0.5"), "--relabelled changes classes"),
    ((*SEGMENTATION, "--augment=crop"), "moves images but not the classes of their pixels"),
  ],
)
def test_invalid_flags_are_refused(fedavg_run, flags, message):
  result = fedavg_run(*flags)
  assert result.code == 2
  assert message in result.err
