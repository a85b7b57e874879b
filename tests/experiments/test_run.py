"""``experiments.fedavg`` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.binaries import ROOT
from helpers.run_bits import parameters, read

from fedjax_norm import client_mapping
from fedjax_norm.cli.commands import compare
from fedjax_norm.training.placement import data_feed

SHARED = ROOT.parent / "shared"


def test_a_run_writes_its_folder_and_says_so(fedavg_run):
  result = fedavg_run("--norm=fixbn", "--workdir=run", "--evaluate_clients=4")
  assert result.code == 0, result.err
  folder = Path("run")
  names = {path.name for path in folder.iterdir()}
  pictures = {"partition.png", "learning_curves.png", "clients.png", "confusion.png"}
  tables = {"metrics.csv", "config.json", "summary.json", "evaluation.json", "tensorboard"}
  assert names >= pictures | tables
  rows, summary = read(folder), json.loads((folder / "summary.json").read_text())
  assert [row["round"] for row in rows] == ["2", "4"]
  assert [row["phase"] for row in rows] == ["explore", "calibrate"]
  wanted = {"top1", "top5", "loss", "rounds", "bytes_up", "bytes_down", "round_trips", "seconds"}
  assert summary.keys() >= wanted
  assert summary["top1"] == float(rows[-1]["top1"])
  classes = json.loads((folder / "evaluation.json").read_text())["classes"]
  recalls = [one["recall"] for one in classes]
  assert summary["balanced_accuracy"] == pytest.approx(np.mean(recalls))
  assert f"{classes[0]['name']} {recalls[0]:.1%}, " in result.out
  assert summary["frozen_at"] == 2
  assert summary["round_trips"] == 4
  # 4 clients send the model (tiny with 4 classes: 56,164 parameters) in each of 4 rounds, and the
  # statistics (160 means and variances) in the two before the freeze.
  assert summary["bytes_up"] == 4 * 4 * (4 * 56_164 + 4 * 320 // 2)
  assert summary["bytes_down"] == 4 * 4 * 4 * (56_164 + 320)
  mapping = client_mapping.create(num_clients=4).describe()
  for text in (f"{summary['top1']:.2%}", mapping, "56,164 parameters"):
    assert text in result.out


@pytest.mark.usefixtures("one_convolution")
def test_the_same_flags_give_the_same_bits_and_another_seed_does_not(fedavg_run):
  arguments = ("--norm=bn", "--cohort=3", "--augment=crop_flip")
  for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
    assert fedavg_run(*arguments, f"--workdir={folder}", f"--seed={seed}").code == 0
  assert read(Path("a")) == read(Path("b"))
  assert parameters(Path("a")) == parameters(Path("b"))
  assert parameters(Path("a")) != parameters(Path("c"))


@pytest.mark.usefixtures("one_convolution")
def test_data_on_the_host_gives_the_same_bits(fedavg_run, monkeypatch):
  """Data on the host comes in windows of rounds; a run can resume with either ``--data_on``."""
  options = ("--norm=gn", "--cohort=3", "--partition=feature")
  assert fedavg_run(*options, "--workdir=device", "--data_on=device").code == 0
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 1)
  result = fedavg_run(*options, "--workdir=host", "--data_on=host")
  assert result.code == 0, result.err
  assert " on the host" in result.out
  assert read(Path("host")) == read(Path("device"))
  assert parameters(Path("host")) == parameters(Path("device"))
  result = fedavg_run(*options, "--workdir=host")
  assert result.code == 0, result.err
  assert " on the device" in result.out


@pytest.mark.usefixtures("one_convolution")
def test_seeds_repeat_a_run(fedavg_run):
  result = fedavg_run("--norm=gn", "--seeds=3", "--seed=5", "--workdir=run")
  assert result.code == 0, result.err
  losses = []
  for seed in (5, 6, 7):
    folder = Path("run") / f"seed_{seed}"
    losses.append(json.loads((folder / "summary.json").read_text())["loss"])
    assert json.loads((folder / "config.json").read_text())["seed"] == seed
  total = json.loads((Path("run") / "summary.json").read_text())
  alone = json.loads((Path("run") / "seed_5" / "summary.json").read_text())
  assert total["bytes_up"] == alone["bytes_up"]  # a run's, not the sum
  np.testing.assert_allclose(total["loss"], np.mean(losses))
  np.testing.assert_allclose(total["loss_std"], np.std(losses, ddof=1))
  # Each seed has the bits of a run of that seed alone, although the seeds share a program.
  assert fedavg_run("--norm=gn", "--seed=6", "--workdir=alone").code == 0
  assert parameters(Path("alone")) == parameters(Path("run") / "seed_6")
  # A comparison shows mean and deviation of the seeds.
  table = compare.compare(compare.CompareFlags(), "run", "alone")
  assert f"{total['top1']:.2%} ± {total['top1_std']:.2%}" in table
  assert Path("compare/report.html").is_file()


@pytest.mark.usefixtures("one_convolution")
def test_a_seed_of_a_ramp_is_the_run_of_that_seed(fedavg_run):
  """The clients' numbers of steps, and so the ramp, differ between seeds."""
  options = ("--norm=brn", "--partition=dirichlet", "--alpha=0.5", "--local_epochs=1")
  options += ("--batch_size=2", "--brn_ramp=0,0.5,0.5")
  assert fedavg_run(*options, "--seeds=2", "--workdir=sweep").code == 0
  assert fedavg_run(*options, "--seed=1", "--workdir=alone").code == 0
  assert parameters(Path("alone")) == parameters(Path("sweep") / "seed_1")


@pytest.mark.usefixtures("one_convolution")
@pytest.mark.parametrize(
  "options",
  [
    ("--norm=bn", "--batch_stats=recalibrate", "--cohort=1", "--eval_batch_size=32"),
    ("--norm=bn", "--fedbn", "--cohort=1", "--eval_batch_size=16", "--evaluate_clients=1"),
  ],
)
def test_more_devices_than_there_is_work_for(options, fedavg_run):
  """There are two devices for a cohort of one, or for a single batch of test examples."""
  result = fedavg_run(*options, "--rounds=2", "--workdir=run")
  assert result.code == 0, result.err
  assert [row["round"] for row in read(Path("run"))] == ["2"]


def test_fedbn_is_tested_on_each_clients_features(fedavg_run):
  """Images of clients are brighter by up to 3; the test images of each client are too."""
  options = ("--partition=feature", "--feature_shift=brightness", "--feature_scale=3", "--fedbn")
  options += ("--norm=bn", "--rounds=30", "--eval_every=30", "--lr=0.1", "--batch_size=16")
  assert fedavg_run(*options, "--workdir=run", "--evaluate_clients=4").code == 0
  summary = json.loads((Path("run") / "summary.json").read_text())
  assert summary["top1"] > 0.7
  assert summary["clients_top1_min"] > 0.6


@pytest.mark.usefixtures("one_convolution")
def test_a_model_that_guesses_gets_a_warning(fedavg_run):
  good, bad = (
    ("--rounds=40", "--eval_every=40", "--lr=0.1"),
    ("--lr=1000", "--clip_norm=1", "--norm=gn"),
  )
  for options, guesses in ((good, False), (bad, True), ((*bad, "--local_steps=50"), True)):
    name = f"run{len(options)}{guesses}"
    result = fedavg_run(*options, "--partition=iid", f"--workdir={name}")
    assert result.code == 0, result.err
    summary = json.loads((Path(name) / "summary.json").read_text())
    assert summary["no_better_than_guessing"] is guesses
    assert ("no better than that of one constant answer" in result.out) == guesses


def test_a_natural_partition_from_a_file(fedavg_run):
  rng = np.random.default_rng(0)
  labels = np.arange(40) % 4
  images = rng.uniform(0, 1, (40, 6, 6, 1)).astype(np.float32)
  clients = np.repeat([0, 1, 2], [5, 15, 20])
  np.savez(
    "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, client_train=clients
  )
  options = ("--data=npz:own.npz", "--norm=gn", "--clients=3", "--workdir=run")
  result = fedavg_run(*options)
  assert result.code == 0, result.err
  assert json.loads(Path("run/config.json").read_text())["partition"] == "natural"
  assert fedavg_run(*options).code == 0  # the same flags resume the run
  assert "3 (--partition=natural) with 5 to 20 examples each" in result.out


@pytest.mark.usefixtures("one_convolution")
@pytest.mark.long
def test_real_data(fedavg_run):
  """Trains on MNIST; the tests of the sources read CIFAR-10 too."""
  if not (SHARED / "tfds" / "mnist").exists():
    pytest.skip("the prepared mnist is not beside the repository (../shared/tfds)")
  flags = "--data=mnist --partition=iid --norm=gn --rounds=2 --augment=crop_flip"
  result = fedavg_run(*flags.split(), f"--data_dir={SHARED / 'tfds'}", "--eval_batch_size=1000")
  assert result.code == 0, result.err
  assert "60,000 training, 10,000" in result.out


def test_library_use_gives_the_numbers_of_the_command(fedavg_run):
  """Runs the README's library example, and the same by flags."""
  import fedjax_norm as fn

  fedavg_run("--norm=fixbn", "--workdir=run", "--freeze_round=3")
  source = fn.load_source("synthetic:classes=4,train=64,test=32,size=6")
  partition = fn.make_partition("classes", source.train.labels, 4, 0, classes_per_client=1)
  task = fn.make_task(source, partition, fn.make_norm("fixbn"), "tiny")
  outcome = fn.run("fedavg", task, batch_size=8, rounds=4, eval_every=2, freeze_round=3)
  shown = [{k: str(v) for k, v in row.items() if k != "seconds"} for row in outcome.rows]
  assert shown == read(Path("run"))
