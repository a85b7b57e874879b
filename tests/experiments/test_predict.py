"""``experiments.predict`` on a finished run, on image files, and on wrong input."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from PIL import Image

from fedjax_norm import client_mapping
from fedjax_norm.cli import app, prediction_table
from fedjax_norm.cli.commands import predict
from fedjax_norm.cli.flags import define
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import IGNORED
from fedjax_norm.training.finished_run import FinishedRun

CLASSES = [f"class{c}" for c in range(4)]


@pytest.fixture
def predicted(capsys, monkeypatch):
  """(*flags) -> (exit code, stdout, stderr) of ``experiments.predict`` in this process."""
  start = client_mapping.use_host_devices
  # JAX already runs with two devices.
  monkeypatch.setattr(client_mapping, "use_host_devices", lambda count: start(2))

  def run(*arguments: str) -> tuple[int, str, str]:
    values = flags.FlagValues()
    define(predict.PredictFlags, values)
    rest = values(["predict", *arguments])[1:]
    return app.execute(predict.main, predict.PredictFlags, values, rest), *capsys.readouterr()

  return run


def table(text: str) -> list[dict[str, str]]:
  return list(csv.DictReader(io.StringIO(text)))


def state(folder: Path) -> dict:
  return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.usefixtures("one_convolution")
def test_predictions_of_a_run(fedavg_run, predicted):
  # Whole pixel values, so that image files have the same images.
  data = "--data=npz:data.npz"
  rng = np.random.default_rng(0)
  labels = np.arange(64) % 4
  images = rng.integers(0, 120, (64, 6, 6), np.uint8)
  images[np.arange(64), labels] += 120
  # A fifth class, which --first_classes leaves out, stands in between.
  arrays = {"x_train": images, "y_train": labels, "x_test": images[:21], "y_test": labels[:21]}
  arrays = {
    name: np.insert(a, [0, 5, 20], 4 if name[0] == "y" else 255, 0) for name, a in arrays.items()
  }
  np.savez("data.npz", **arrays, class_names=[*CLASSES, "other"])
  # After FixBN's freeze the rate is far too high, so that the best round is before the freeze. With
  # this seed the model is good enough by then that none after the freeze does better by chance.
  training = (data, "--first_classes=4", "--norm=fixbn", "--lr=0.1", "--local_steps=20",
              "--partition=iid", "--seed=2", "--freeze_lr_factor=1000",
              "--freeze_clip_norm=1", "--validation_share=0.25", "--workdir=run")  # fmt: skip
  code, _, err = fedavg_run(*training)
  assert code == 0, err
  summary, before = json.loads(Path("run/summary.json").read_text()), state(Path("run"))

  code, out, err = predicted("--workdir=run")
  assert (code, err) == (0, f"top-1 {summary['top1']:.2%} on the test images of npz:data.npz\n")
  rows = table(out)
  assert list(rows[0]) == ["example", "class", "predicted", "probability",
                           *(f"p_{name}" for name in CLASSES)]  # fmt: skip
  assert [row["class"] for row in rows] == [CLASSES[k] for k in labels[:21]]
  assert np.mean([row["class"] == row["predicted"] for row in rows]) == summary["top1"]
  for row in rows:
    shares = {name: float(row[f"p_{name}"]) for name in CLASSES}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert float(row["probability"]) == shares[row["predicted"]] == max(shares.values())

  # The same images as files, in an order of their own, in batches.
  for k in range(21):
    path = Path("files", CLASSES[labels[k]], f"{k}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[k]).convert("RGB" if k % 2 else "L").save(path)
  Path("files/notes.txt").write_text("no image")
  code, out, err = predicted("--workdir=run", "--images=files", "--batch_size=8")
  assert (code, err) == (0, "")
  assert len(table(out)) == 21
  for row in table(out):
    expected = rows[int(Path(row["image"]).stem)]
    assert row["predicted"] == expected["predicted"]
    assert float(row["probability"]) == pytest.approx(float(expected["probability"]), abs=1e-5)

  # The model of the best round, written to a file; nothing in the run's folder changes.
  assert summary["best_round"] == summary["frozen_at"] == 2
  assert summary["best_top1"] != summary["top1"]
  code, out, err = predicted("--workdir=run", "--best", "--output=best.csv")
  assert (code, out) == (0, "written: best.csv\n")
  right = [row["class"] == row["predicted"] for row in table(Path("best.csv").read_text())]
  assert np.mean(right) == summary["best_top1"]
  assert state(Path("run")) == before
  code, _, err = predicted("--workdir=run", "--output=best.csv")
  assert (code, err.count("\n")) == (2, 1)
  assert "not overwritten" in err

  # Wrong input.
  Image.fromarray(images[0, :5]).save("small.png")
  for arguments, words in (
    ((), "has 5x6 pixels"),
    (("--images=small.png", "--workdir=files"), "holds no run"),
    (("--images=nowhere",), "no file or folder nowhere"),
    (("--images=run/checkpoints",), "holds no images"),
    (("--images=data.npz",), "is not an image that can be read"),
    (("--images=files", "--split=train"), "--split does nothing here"),
    (("--data=digits",), "the images of digits are 8x8x1"),
    (("--data=synthetic:classes=5,size=6",), "has the class 'class4'"),
    (("--images=files", "--region=country"), "--region does nothing here"),
  ):
    code, _, err = predicted("--workdir=run", *(arguments or ("--images=small.png",)))
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err
  assert predicted()[0] == 2


def finished(task: str, names: tuple[str, ...], **more: object) -> FinishedRun:
  """A run whose files are not needed."""
  run = FinishedRun(Path("run"), {}, {})
  vars(run)["serving"] = SimpleNamespace(task=task, names=names, **more)
  return run


def test_classes_are_matched_by_name():
  run = finished("classification", ("cat", "dog", "fox"))
  images = np.zeros((4, 2, 2, 1), np.uint8)
  examples = Examples(images, np.int32([0, 1, 1, 2]))
  source = Source("own", examples, examples, ("fox", "cat", "dog", "owl"))
  np.testing.assert_array_equal(prediction_table.targets_of(run, source, examples), [2, 0, 0, 1])
  with pytest.raises(UserError, match="the class 'owl', which the run does not know"):
    prediction_table.targets_of(run, source, Examples(images, np.int32([0, 3, 1, 2])))
  # The label of the highest output is right, unless another output is as high.
  outputs = np.float32([[0, 1, 2], [3, 0, 0], [1, 1, 0], [0, 5, 1]])
  assert prediction_table.score(run, outputs, np.int32([2, 0, 0, 1])) == (3, 4)


def test_the_rows_of_a_regression():
  run = finished("regression", ("a", "b"), target_mean=(10.0, 0.0), target_std=(2.0, 1.0))
  outputs, targets = np.float32([[1, 2], [0, 1]]), np.float32([[12, 4], [13, 1]])
  head = [{"example": 0}, {"example": 1}]
  first = {"example": 0, "true_a": 12, "true_b": 4, "predicted_a": 12, "predicted_b": 2}
  assert prediction_table.rows(run, head, outputs, targets)[0] == first
  total, count = prediction_table.score(run, outputs, targets)
  assert prediction_table.describe(run, total, count) == f"rmse {np.sqrt((0 + 4 + 9 + 0) / 4):.4g}"
  assert list(prediction_table.rows(run, head, outputs, None)[0]) == [
    "example", "predicted_a", "predicted_b"
  ]  # fmt: skip


def test_the_rows_of_a_segmentation():
  run = finished("segmentation", ("dark", "bright"))
  classes, truth = np.array([[[0, 1], [1, 1]]]), np.array([[[0, 1], [0, IGNORED]]])
  outputs = np.eye(2, dtype=np.float32)[classes]
  [row] = prediction_table.rows(run, [{"example": 0}], outputs, truth)
  shares = {"share_dark": 0.25, "share_bright": 0.75}
  true = {"true_share_dark": 0.666667, "true_share_bright": 0.333333}
  assert row == {"example": 0, **true, **shares}
  assert prediction_table.describe(run, *prediction_table.score(run, outputs, truth)) == (
    "pixels right 66.67%"
  )
