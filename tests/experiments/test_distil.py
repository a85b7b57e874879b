"""A cut ensemble is trained, a third party predicts with it, and a student learns from it."""

import csv
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from helpers.binaries import SMALL

from fedjax_norm import client_mapping
from fedjax_norm.cli import app, split_options, train
from fedjax_norm.cli.commands import distil, split_predict
from fedjax_norm.cli.commands.distil import DistilFlags
from fedjax_norm.cli.commands.split_predict import PredictFlags
from fedjax_norm.cli.flags import define
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.training.finished_run import load_run

SPLIT = (
  functools.partial(train.run, make=split_options.make),
  split_options.ALGORITHM.config("split"),
)
PUBLIC = "--data=synthetic:classes=4,train=32,test=8,size=6,noise=0.3"
CUT = (6 * 64 + 64) * 4  # bytes of the activations of both members for one example


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
  """A function: (main, config class, flags) -> (exit code, stdout, stderr)."""
  monkeypatch.chdir(tmp_path)
  # JAX already runs with two devices.
  monkeypatch.setattr(client_mapping, "use_host_devices", lambda count: None)

  def launch(main, config, *arguments):
    values = flags.FlagValues()
    define(config, values)
    small = (*SMALL[:-1], "--host_devices=1") if config is SPLIT[1] else ()
    rest = values(["binary", *small, *arguments])[1:]
    code = app.execute(main, config, values, rest)
    return code, *capsys.readouterr()

  return launch


def rows(path):
  with open(path) as file:
    return list(csv.DictReader(file))


@pytest.mark.long
def test_train_predict_and_distil(run):
  members = ("--members=lstm:embed,lstm:lstm", "--norm=gn")
  code, out, err = run(*SPLIT, *members, "--rounds=2", "--workdir=teacher")
  assert code == 0, err
  assert "lstm+lstm, gn" in out
  assert "ensemble members, top-1" in out
  summary = json.loads(Path("teacher/summary.json").read_text())
  assert {"member0_top1", "member1_top1"} <= summary.keys()
  (row,) = rows("teacher/metrics.csv")
  assert float(row["member1_top1"]) == summary["member1_top1"]
  # 2 rounds of 4 clients with a step of 8 examples, labels of 4 bytes, and 7 hand-overs of
  # parameters and momentum.
  hand_overs = 7 * 2 * 4 * (2 * (6 * 64 + 2 * 64) + 65 * 256 + 64 * 256)
  assert summary["bytes_up"] == 64 * (CUT + 4) + hand_overs

  code, out, err = run(split_predict.main, PredictFlags, "--workdir=teacher")
  assert code == 0, err
  guesses = rows("teacher/predictions.csv")
  right = np.mean([guess["class"] == guess["predicted"] for guess in guesses])
  np.testing.assert_allclose(right, summary["top1"])
  assert f"{right:.2%}" in out
  sent = {line["kind"]: int(line["bytes"]) for line in rows("teacher/inference_messages.csv")}
  assert sent["activation"] == 32 * CUT
  assert sent["output"] == 32 * 4 * 4

  learn = (
    "--teacher=teacher",
    PUBLIC,
    "--student=lstm",
    "--workdir=student",
    "--epochs=2",
    "--noprogress",
  )
  code, out, err = run(distil.main, DistilFlags, *learn)
  assert code == 0, err
  result = json.loads(Path("student/summary.json").read_text())
  assert result["teacher_top1"] == pytest.approx(summary["top1"])
  assert result["bytes_up"] == 32 * CUT
  assert result["bytes_down"] == 0
  assert [row["round"] for row in rows("student/metrics.csv")] == ["1", "2"]
  assert {"model.msgpack", "learning_curves.png", "messages.csv"} <= {
    path.name for path in Path("student").iterdir()
  }
  assert f"top-1 {result['top1']:.2%}" in out

  test = sources.load(SMALL[0].partition("=")[2]).test  # the student's test images
  for folder, top1 in (("teacher", summary["top1"]), ("student", result["top1"])):
    predicted = load_run(folder).predict(test.images).argmax(-1)
    assert np.mean(predicted == test.labels) == pytest.approx(top1)

  for data, says in (("digits", "8x8x1"), (SMALL[0].partition("=")[2], "not public")):
    code, _, err = run(distil.main, DistilFlags, "--teacher=teacher", f"--data={data}")
    assert (code, says in err) == (2, True), err


@pytest.mark.parametrize(
  ("binary", "given", "match"),
  [
    ((distil.main, DistilFlags), (), "give --teacher"),
    ((distil.main, DistilFlags), ("--teacher=nothing",), "holds no run"),
    ((distil.main, DistilFlags), ("--teacher=x", "--temperature=0"), "temperature is 0"),
    ((distil.main, DistilFlags), ("--teacher=x", "--norm=fixbn"), "give --norm=bn"),
    ((split_predict.main, PredictFlags), (), "give --workdir"),
    ((split_predict.main, PredictFlags), ("--image_size=6",), "it needs --data"),
    ((split_predict.main, PredictFlags), ("--first_classes=2",), "it needs --data"),
    ((distil.main, DistilFlags), ("--teacher=x", "--first_classes=2"), "holds no run"),
    (SPLIT, ("--members=tiny:conv1",), "a vote needs two"),
    (SPLIT, ("--members=tiny,lenet:conv1",), "MODEL:CUT"),
    (SPLIT, ("--members=tiny:conv1,no:conv1",), "unknown model 'no'"),
    (SPLIT, ("--members=tiny:conv1,tiny:conv2", "--cut=conv1"), "--cut applies to a single model"),
    (SPLIT, ("--members=tiny:conv1,tiny:conv2", "--relays=a,b"), "--relays"),
    (SPLIT, ("--members=tiny:conv1,tiny:conv2", "--model=lenet"), "drop --model"),
  ],
)
def test_bad_input_gives_an_error_of_one_sentence(run, binary, given, match):
  code, _, err = run(*binary, *given)
  assert code == 2
  assert match in err
  assert len(err.splitlines()) == 1
