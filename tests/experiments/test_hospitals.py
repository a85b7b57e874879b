"""Hospitals with folders of their own: each is tested on its own test images, and is named."""

import json

import numpy as np
import pytest
from helpers.small_data import write

import fedjax_norm as fn
from fedjax_norm.data.sources import registry as sources

CLIENTS = ("north", "south", "west")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
  """Two classes of 8x8 images; the south has no test images, and the east only these."""
  root, rng = tmp_path_factory.mktemp("hospitals"), np.random.default_rng(0)
  tests = {"north": (7, 3), "west": (2, 4), "east": (3, 3)}
  for split, sizes in (("train", dict.fromkeys(CLIENTS, (8, 8))), ("test", tests)):
    for client, counts in sizes.items():
      for label, name in enumerate(("ill", "well")):
        for i in range(counts[label]):
          pixels = rng.integers(0, 200, (8, 8)) + 55 * label
          write(root / split / client / name / f"{i}.png", pixels)
  return root


def test_each_test_image_has_its_client(hospitals):
  source = sources.load(f"folder:{hospitals}")
  assert source.client_names == CLIENTS
  # In alphabetical order: east, which has no training images, then north and west.
  assert source.test.clients.tolist() == [-1] * 6 + [0] * 10 + [2] * 6


def test_a_random_split_keeps_the_clients(hospitals):
  source = sources.load(f"folder:{hospitals / 'train'}")
  assert source.client_names == CLIENTS
  np.testing.assert_array_equal(np.bincount(source.test.clients), [4, 4, 2])


@pytest.mark.usefixtures("one_convolution")
def test_the_worst_hospital_is_that_of_a_count_by_hand(fedavg_run, hospitals, tmp_path):
  flags = ("--clients=3", "--evaluate_clients=3", "--validation_share=0.25", "--norm=none")
  result = fedavg_run(f"--data=folder:{hospitals}", f"--workdir={tmp_path / 'run'}", *flags)
  assert result.code == 0, result.err
  assert "36 training, 12 validation (out of the clients' training data), 22 test" in " ".join(
    result.out.split()
  )
  source = sources.load(f"folder:{hospitals}")
  probabilities = fn.load_run(tmp_path / "run").predict(source.test.images)
  correct = probabilities.argmax(-1) == source.test.labels
  by_hand = {"north": correct[6:16].mean(), "south": None, "west": correct[16:].mean()}
  clients = json.loads((tmp_path / "run" / "evaluation.json").read_text())["clients"]
  assert {one["name"]: one["top1"] for one in clients} == pytest.approx(by_hand)
  assert [one["examples"] for one in clients] == [10, 0, 6]
  known = [value for value in by_hand.values() if value is not None]
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert summary["clients_top1"] == pytest.approx(np.mean(known))
  assert summary["clients_top1_min"] == pytest.approx(min(known))
  assert min(known) < max(known)
