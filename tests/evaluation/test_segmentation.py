"""Classes of pixels against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.evaluation import classification, segmentation
from fedjax_norm.objectives import IGNORED

NAMES = ("back", "cat", "dog", "eel")


class Shown(nn.Module):
  """Guesses the class that a pixel shows, with logits of 0 and 5."""

  def __call__(self, x, mode):
    del mode
    return 5 * jax.nn.one_hot(x[..., 0].astype(jnp.int32), len(NAMES))


@pytest.fixture(scope="module")
def case():
  """Test examples whose images show guesses; nobody is an eel or is taken for one."""
  rng = np.random.default_rng(0)
  guesses, classes = rng.integers(0, 3, (2, 11, 4, 5))
  classes[rng.random(classes.shape) < 0.2] = IGNORED
  images = guesses[..., None].astype(np.float32)
  return Examples(images, np.zeros(11, np.int32), targets=classes.astype(np.uint8))


@pytest.mark.parametrize("batch_size", [3, 11])
def test_equals_counting_by_hand(case, batch_size):
  batch_test = classification.make_batch_test(
    Shown(),
    lambda images, ids, strength: images,
    lambda logits, batch: segmentation.confusion_of(logits, batch, len(NAMES)),
  )
  mapping = client_mapping.create("auto", num_clients=2)
  batches = classification.stack_batches(case, batch_size, mapping.num_devices, case.targets)
  result = classification.make_evaluate(batch_test, mapping)({}, jax.tree.map(jnp.asarray, batches))
  found = segmentation.summarize(result, NAMES)

  kept = case.targets != IGNORED
  guesses, classes = case.images[..., 0][kept], case.targets[kept]
  ious = {}
  for number, name in enumerate(NAMES):
    guessed, true = (set(np.flatnonzero(a == number)) for a in (guesses, classes))
    ious[name] = len(guessed & true) / len(guessed | true) if guessed | true else np.nan
  assert np.isnan(ious["eel"])
  for name, value in ious.items():
    assert found[f"iou_{name}"] == pytest.approx(value, nan_ok=True)
  assert found["mean_iou"] == pytest.approx(np.nanmean(list(ious.values())))
  assert found["pixel_accuracy"] == pytest.approx((guesses == classes).mean())
  # Of a right pixel log(e^5 + 3) - 5, of a wrong one log(e^5 + 3); images count the same.
  right = (case.images[..., 0] == case.targets) & kept
  losses = [np.log(np.exp(5) + 3) - 5 * r.sum() / k.sum() for r, k in zip(right, kept, strict=True)]
  assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_iou_of_several_models_is_the_mean_of_theirs():
  perfect, swapped = np.diag([3.0, 1.0]), np.array([[2.0, 1.0], [1.0, 0.0]])
  confusion = segmentation.Confusion(np.ones(2), np.stack([perfect, swapped]), np.ones(2))
  found = segmentation.summarize(confusion, ("a", "b"))
  assert found["iou_a"] == pytest.approx((1 + 2 / 4) / 2)
  assert found["iou_b"] == pytest.approx((1 + 0) / 2)
  assert found["mean_iou"] == pytest.approx((1 + 1 / 4) / 2)
  assert found["pixel_accuracy"] == pytest.approx(6 / 8)
