"""User-defined data from the command line: the summary at the start of a run, and errors."""

import re
from types import MappingProxyType

import numpy as np
import pytest
from flax import linen as nn
from helpers.small_data import flat, write

from fedjax_norm.cli import train
from fedjax_norm.models import registry


@pytest.fixture
def started(fedavg_run, monkeypatch):
  """Returns (*flags) -> the output of a run's start, and the configuration to train with."""
  configs = []
  monkeypatch.setattr(train, "run_seed", lambda config, *rest: configs.append(config))

  def start(*arguments):
    configs.clear()
    result = fedavg_run("--norm=none", *arguments)
    assert result.code == 0, result.err
    return " ".join(result.out.split()), configs[0]

  return start


@pytest.fixture
def federation(tmp_path):
  """Makes a folder of four clients with ten 6x6 images each, five per class."""
  for i in range(40):
    write(tmp_path / "own" / f"ann{i % 4}" / f"class{i // 4 % 2}" / f"{i}.png", flat(6 * i, 6))
  return "--data=folder:own"


def check_refused(result, words):
  assert result.code == 2
  assert result.err.startswith("error: ")
  assert result.err.count("\n") == 1
  assert re.search(words, result.err), result.err


def archive(name, **changes):
  images = np.random.default_rng(0).random((40, 6, 6, 1), np.float32)
  labels = np.arange(40) % 4
  np.savez(
    name, **{"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, **changes}
  )
  return f"--data=npz:{name}"


def test_natural_clients_are_the_default_partition(started, federation, fedavg_run):
  out, config = started(federation)
  assert config.partition == config.saved()["partition"] == "natural"
  assert "4 (--partition=natural) with 8 to 8 examples each" in out
  assert "client names ann0, ann1, ann2, ann3" in out
  assert "ignores" not in out
  out, config = started(federation, "--partition=iid", "--clients=3")
  assert "3 (--partition=iid)" in out
  assert "--partition=iid ignores the 4 clients that the data names" in " ".join(out.split())
  result = fedavg_run(federation, "--clients=3")
  check_refused(result, "4 clients, not 3; give 4 clients, .* another partition")
  _, config = started("--data=digits")
  saved = config.saved()  # the resolved values, for config.json
  assert (saved["partition"], saved["clients"], saved["classes_per_client"]) == ("classes", 4, 3)
  _, config = started("--data=synthetic:classes=4,train=64,test=32,size=6,clients=4")
  assert config.partition == "natural"


def test_the_start_prints_what_was_read(started, federation, tmp_path):
  (tmp_path / "own" / "ann0" / "class0" / "scan.heic").touch()
  out, _ = started(federation)
  for words in (
    "32 training, 8 test",
    "images 6x6, 3 channels, uint8 from 0 to 234",
    "classes 2",
    "note files skipped because Pillow does not read them as images: 1 (1 .heic)",
    "note held out 8 of 40 images (20%) at random for the test",
    "note one of the 8 test images is worth 12.5 points of accuracy",
  ):
    assert words in out
  bright = np.full((40, 6, 6, 1), 255, np.float32)
  labels = np.arange(40) % 3 + 1
  given = {"x_train": bright, "x_test": bright, "y_train": labels, "y_test": labels}
  out, _ = started(archive("bright.npz", **given))
  assert "note image values range from 255 to 255" in out
  assert "note no training image has one of the classes 0" in out
  assert "are read as height" not in out
  windows = np.random.default_rng(0).random((40, 4, 16, 9), np.float32)
  out, _ = started(archive("windows.npz", x_train=windows, x_test=windows))
  assert "note arrays are read as height x width x channels: 4x16x9" in out


def test_identities_of_arrays_can_be_verified(started):
  own = {f"x_{s}": np.random.default_rng(0).random((40, 16, 16, 1)) for s in ("train", "test")}
  data = archive("own.npz", **own, y_test=np.arange(40) % 4 + 4)
  out, _ = started(data, "--task=verification", "--model=face")
  assert "40 training, 40 test" in out


@pytest.mark.parametrize(
  ("changes", "flags", "words"),
  [
    ({"x_train": np.full((40, 6, 6, 1), 9.0, np.float32)}, ["--partition=feature"], "0 to 1"),
    ({"y_train": np.repeat([0, 10**7], 20)}, [], "numpy.unique"),
    ({"y_train": np.arange(40) % 3}, [], "class 3 has test images but no training image"),
    ({f"x_{s}": np.zeros((40, 3, 6, 6), np.uint8) for s in ("train", "test")}, [], "moveaxis"),
    (
      {f"target_{s}": np.r_[1e300, np.ones(39)] for s in ("train", "test")},
      ["--task=regression"],
      "float32 cannot represent",
    ),
  ],
)
def test_errors_of_arrays_are_one_sentence(fedavg_run, changes, flags, words):
  result = fedavg_run(archive("own.npz", **changes), *flags)
  check_refused(result, words)


def test_errors_of_folders_are_one_sentence(fedavg_run, federation, tmp_path):
  write(tmp_path / "own" / "Test" / "class0" / "0.png", flat(0, 6))
  result = fedavg_run(federation)
  check_refused(result, "'Test', which names a split, next to 'ann0'")


def test_the_error_of_a_model_with_flax_batch_norm_is_one_sentence(fedavg_run, monkeypatch):
  class OwnNet(nn.Module):
    norm: object
    num_classes: int

    @nn.compact
    def __call__(self, x, mode):
      return nn.Dense(self.num_classes)(nn.BatchNorm(not mode.train)(x).mean((1, 2)))

  entry = registry.MODELS["tiny"]._replace(build=OwnNet)
  monkeypatch.setattr(registry, "MODELS", MappingProxyType({**registry.MODELS, "tiny": entry}))
  result = fedavg_run("--norm=none")
  check_refused(result, "OwnNet keeps variables in 'batch_stats'")
