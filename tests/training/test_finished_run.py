"""A finished run predicts as the model of its task, from the files of its folder alone."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_norm import models
from fedjax_norm.cli import methods, split_options
from fedjax_norm.cli.train import load, prepare
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, create
from fedjax_norm.norm.spec import Renorm
from fedjax_norm.training.finished_run import load_run, save_serving
from fedjax_norm.training.storage.final_model import BEST_MODEL, save_model
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.storage.serving_files import Serving, read_serving, write_serving

SMALL = {"clients": 4, "batch_size": 8, "rounds": 4, "eval_every": 2}


def save(path, config_type=methods.FEDAVG_CONFIG, size=6, **options):
  """Saves a run with random parameters and statistics; returns its task and variables."""
  config = config_type(data=f"synthetic:classes=4,train=24,test=9,size={size}", **SMALL, **options)
  config, task = prepare(config, load(config))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda a: (a + rng.uniform(0.1, 1, a.shape)).astype(np.float32),
    models.init(task.model, jax.random.key(0), task.image_shape),
  )
  with RunFolder.open(path, config.saved()) as folder:
    save_serving(folder.path, config, task)
    save_model(folder.path, variables)
  return task, variables


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A run of bn with gcn and ZCA whitening: (folder, task, variables)."""
  path = tmp_path_factory.mktemp("saved") / "run"
  return path, *save(path, whiten="gcn_zca")


def outputs_of(task, variables):
  images = task.eval_transform(jnp.asarray(task.source.test.images))
  return np.asarray(task.model.apply(variables, images, Mode()), np.float64)


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def test_probabilities_are_those_of_the_task_s_model(saved):
  path, task, variables = saved
  run = load_run(path)
  assert run.class_names == ("class0", "class1", "class2", "class3")
  images = task.source.test.images
  expected = softmax(outputs_of(task, variables))
  for batch_size in (4, 100):  # 9 images: with and without padding
    np.testing.assert_allclose(run.predict(images, batch_size), expected, atol=1e-5)
  # Stored bytes are scaled as in training.
  as_bytes = np.rint(images * 255).astype(np.uint8)
  np.testing.assert_allclose(run.predict(as_bytes), run.predict(as_bytes / 255), atol=1e-5)


def test_an_ensemble_predicts_by_its_vote(tmp_path):
  split = split_options.ALGORITHM.config("split")
  task, variables = save(tmp_path, split, members="lstm:embed,lstm:lstm", norm="gn")
  expected = np.exp(outputs_of(task, variables))
  np.testing.assert_allclose(
    load_run(tmp_path).predict(task.source.test.images), expected, atol=1e-5
  )


def test_a_regression_predicts_in_the_targets_units(tmp_path):
  task, variables = save(tmp_path, task="regression", model="lstm", norm="ln", subtract="image")
  targets = task.source.train.targets.astype(np.float64)
  expected = outputs_of(task, variables) * targets.std(0) + targets.mean(0)
  result = load_run(tmp_path).predict(task.source.test.images)
  np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_segmentation_predicts_the_class_of_every_pixel(tmp_path):
  task, variables = save(tmp_path, task="segmentation", model="fcn", size=8, norm="brn")
  run = load_run(tmp_path)
  np.testing.assert_array_equal(
    run.predict(task.source.test.images), outputs_of(task, variables).argmax(-1)
  )
  assert run.class_names == ("dark", "bright")


def test_everything_saved_is_read_back(tmp_path):
  norm = dataclasses.replace(create("brn", renorm=Renorm(2.0, 3.0, 1, 4, 5), decay=0.8))
  statistics = {"mean": np.float32([0.1, np.pi]), "std": np.float32([1, 1 / 3])}
  serving = Serving(
    "regression", ("a", "b"), (5, 4, 2), "uint8", 7, (0.0, 255.0), "tiny", "auto", None, norm,
    Preprocess(augment="crop"), (0.1, 1 / 3), (2.0, 1e-9), statistics,
  )  # fmt: skip
  write_serving(tmp_path, serving)
  again = read_serving(tmp_path)
  assert again._replace(statistics={}) == serving._replace(statistics={})
  for name, values in statistics.items():
    np.testing.assert_array_equal(again.statistics[name], values)


def test_images_unlike_the_training_images_are_refused(saved):
  path, task, _ = saved
  run, images = load_run(path), task.source.test.images
  for wrong, words in (
    (images[:, :5], r"\[N, 6, 6, 1\]"),
    (images[0], r"shape \(6, 6, 1\)"),
    (images[:0], "at least 1"),
    (images.astype(int), "convert them to uint8 or float32"),
    (images * 255, "trained on values from 0 to 1"),
    (images * np.nan, "from nan to nan"),
  ):
    with pytest.raises(UserError, match=words):
      run.predict(wrong)
  with pytest.raises(UserError, match="batch size is 0"):
    run.predict(images, 0)


def test_bytes_are_refused_if_the_run_trained_on_other_numbers(saved, tmp_path):
  serving = read_serving(saved[0])._replace(value_range=(-1000.0, 3000.0))
  write_serving(tmp_path, serving)
  run = dataclasses.replace(load_run(saved[0]), path=tmp_path)
  with pytest.raises(UserError, match="trained on values from -1000 to 3000"):
    run.predict(np.zeros((1, 6, 6), np.uint8))


@pytest.fixture
def copy(saved, tmp_path):
  for file in saved[0].iterdir():
    if file.is_file():
      (tmp_path / file.name).write_bytes(file.read_bytes())
  return tmp_path


def test_damaged_files_and_files_of_another_run_are_refused(copy, saved):
  path, images = saved[0], saved[1].source.test.images
  for name, words in (
    ("serving.json", "serving.json is damaged"),
    ("serving.npz", "serving.npz is damaged"),
    ("model.msgpack", "model.msgpack is damaged"),
    ("config.json", "config.json is damaged"),
  ):
    data = (copy / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"\xff\x00" * 30):
      (copy / name).write_bytes(damaged)
      with pytest.raises(UserError, match=words):
        load_run(copy).predict(images)
    (copy / name).write_bytes(data)
  for change, words in (
    ({"format": 9}, "another version"),
    ({"image_shape": [8, 8, 1]}, "does not have the arrays of the run's model"),
    ({"stem": "?"}, "unknown stem"),
    ({"unknown": 1}, "is damaged"),
    ({"task": "verification"}, "predicts no classes"),
  ):
    content = json.loads((path / "serving.json").read_text()) | change
    (copy / "serving.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
      load_run(copy).predict(np.zeros((1, *content["image_shape"])))


def test_a_run_that_cannot_predict_says_why(copy, saved):
  with pytest.raises(UserError, match=r"model_best\.msgpack; run it with --validation_share"):
    load_run(copy, best=True)
  (copy / "summary.json").write_text(json.dumps({"rounds": 2}))
  with pytest.raises(UserError, match="continues to round 4, but its results are those of round 2"):
    load_run(copy)
  (copy / "summary.json").write_text(json.dumps({"rounds": 4}))
  other = jax.tree.map(lambda a: a * 0, saved[2])
  save_model(copy, other, BEST_MODEL)
  probabilities = load_run(copy, best=True).predict(saved[1].source.test.images)
  np.testing.assert_allclose(probabilities, 0.25)
  config = json.loads((copy / "config.json").read_text())
  (copy / "config.json").write_text(json.dumps(config | {"fedbn": True}))
  with pytest.raises(UserError, match="local running statistics"):
    load_run(copy).predict(saved[1].source.test.images)
  (copy / "serving.json").unlink()
  with pytest.raises(UserError, match=r"has no serving\.json"):
    load_run(copy).predict(saved[1].source.test.images)
