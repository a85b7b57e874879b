"""The leakage measured at the cuts of a model, and its figure."""

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from fedjax_norm import models, norm
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.leakage.inversion import Attack
from fedjax_norm.norm import Mode
from fedjax_norm.plots import leakage
from fedjax_norm.training import cut_leakage
from fedjax_norm.training.task.task import make_task

CONFIG = cut_leakage.LeakageConfig(
  cuts="conv3", examples=40, attack_steps=2, known_labels=2, attack=Attack(batch_size=8, features=4)
)


@pytest.fixture
def task(tiny_source):
  division = partitions.make("iid", tiny_source.train.labels, 2, 0)
  return make_task(tiny_source, division, norm.create("gn", groups=8))


@pytest.fixture
def variables(task):
  return models.init(task.model, jax.random.key(0), task.image_shape)


def test_the_figure_has_curves_and_images(tmp_path):
  images = np.random.default_rng(0).random((3, 6, 5, 1))
  row = {"distance_correlation": 0.9, "distance_correlation_corrected": 0.8}
  row |= {"reconstruction_error": 0.2, "ssim": 0.5}
  measured = cut_leakage.Leakage(
    [{"cut": c, **row} for c in ("a", "b")], images, [images] * 2, 1, 3
  )
  figure = leakage.leakage_figure(measured, "a title")
  curves, strips = figure.subfigs
  assert len(curves.axes) == 2  # no panel of labels without label columns
  np.testing.assert_array_equal(curves.axes[1].lines[1].get_ydata(), [0.5, 0.5])
  assert [axes.get_ylabel() for axes in strips.axes] == ["image", "a", "b"]
  shown = strips.axes[0].images[0].get_array()[..., 0]
  np.testing.assert_allclose(shown[:, 6:11], images[1, ..., 0])
  leakage.leakage(measured, tmp_path / "leakage.png", "a title")
  assert imread(tmp_path / "leakage.png")[..., :3].std() > 0.02


def test_gradients_at_a_cut_are_per_example(task, variables):
  images, labels = task.source.train.images[:5], task.source.train.labels[:5]
  gradients = jax.jit(cut_leakage._make_gradients(task, 3))(variables, images, labels)
  logits = jax.jit(lambda x: task.model.apply(variables, task.eval_transform(x), Mode()))(images)
  residual = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) - np.eye(4)[labels]
  by_hand = residual @ np.asarray(variables["params"]["Dense_0"]["kernel"]).T / 9
  by_hand = np.broadcast_to(by_hand[:, None, None], gradients.shape)
  np.testing.assert_allclose(gradients, by_hand, atol=1e-6)


def test_default_cuts_are_those_after_parameters(task):
  cuts = cut_leakage._cuts(task.model, task.image_shape, None)
  assert cuts == {"conv1": (1, (6, 6, 32)), "conv2": (2, (3, 3, 64)), "conv3": (3, (3, 3, 64))}


def test_the_attacker_has_no_attacked_and_no_client_image(task, variables, monkeypatch):
  """The attacker's images are in random order, so that the first, held-out ones mix the classes."""
  recorded = {}

  def spy(front, variables, auxiliary, originals, victims, key, attack):
    jax.debug.callback(lambda *images: recorded.update(images=images), auxiliary, victims)
    return victims

  monkeypatch.setattr(cut_leakage, "reconstruct", spy)
  by_class = np.argsort(task.source.test.labels, kind="stable")
  test = task.source.test
  test = test._replace(images=test.images[by_class], labels=test.labels[by_class])
  task = task._replace(source=task.source._replace(test=test))
  cut_leakage.measure(task, variables, CONFIG)
  jax.effects_barrier()
  auxiliary, victims, clients, tested = (
    [np.asarray(image).tobytes() for image in images]
    for images in (*recorded["images"], task.source.train.images, test.images)
  )
  assert set(auxiliary).isdisjoint(victims)
  assert set(auxiliary + victims).isdisjoint(clients)
  assert set(auxiliary + victims) == set(tested)
  positions = [tested.index(image) for image in auxiliary]
  assert positions != sorted(positions)


def test_known_labels_do_not_count_as_guessed():
  """The accuracy on noise is low even if half of each class is known."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.arange(120) % 40).astype(np.int32)
  noise = rng.normal(size=(120, 30))
  result = cut_leakage._label_accuracies(noise, labels, 40, CONFIG, jax.random.key(0))
  assert result["labels_by_known"] < 0.1


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"cuts": "conv3, head"}, "conv1, conv2, conv3"),
    ({"auxiliary": 0.1}, "more test images"),
    ({"auxiliary": 1.0}, "below 1"),
    ({"examples": 3}, "at least 4"),
    ({"known_labels": 0}, "at least 1"),
  ],
)
def test_invalid_options_are_refused(task, variables, change, words):
  with pytest.raises(UserError, match=words):
    cut_leakage.measure(task, variables, cut_leakage.LeakageConfig(**{**CONFIG.__dict__, **change}))
