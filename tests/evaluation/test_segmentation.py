"""Segmentation measures against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.evaluation import segmentation
from fedjax_norm.evaluation.batches import make_batch_test, make_evaluate, stack_batches
from fedjax_norm.objectives import IGNORED

NAMES = ("back", "cat", "dog", "eel")


class PixelClass(nn.Module):
  """Predicts the class in the image's pixels, with logits of 0 and 5."""

  def __call__(self, x, mode):
    del mode
    return 5 * jax.nn.one_hot(x[..., 0].astype(jnp.int32), len(NAMES))


@pytest.fixture(scope="module")
def case():
  """Test examples with predictions as images; no pixel has or gets the class eel."""
  rng = np.random.default_rng(0)
  predictions, classes = rng.integers(0, 3, (2, 11, 4, 5))
  classes[rng.random(classes.shape) < 0.2] = IGNORED
  images = predictions[..., None].astype(np.float32)
  return Examples(images, np.zeros(11, np.int32), targets=classes.astype(np.uint8))


@pytest.mark.parametrize("batch_size", [3, 11])
def test_equals_counting_by_hand(case, batch_size):
  batch_test = make_batch_test(
    PixelClass(),
    lambda images, ids, strength: images,
    lambda logits, batch: segmentation.confusion_of(logits, batch, len(NAMES)),
  )
  mapping = client_mapping.create("auto", num_clients=2)
  batches = stack_batches(case, batch_size, mapping.num_devices, case.targets)
  result = make_evaluate(batch_test, mapping)({}, jax.tree.map(jnp.asarray, batches))
  columns = segmentation.summarize(result, NAMES)

  counted = case.targets != IGNORED
  predictions, classes = case.images[..., 0][counted], case.targets[counted]
  ious = {}
  for number, name in enumerate(NAMES):
    predicted, true = (set(np.flatnonzero(a == number)) for a in (predictions, classes))
    ious[name] = len(predicted & true) / len(predicted | true) if predicted | true else np.nan
  assert np.isnan(ious["eel"])
  for name, value in ious.items():
    assert columns[f"iou_{name}"] == pytest.approx(value, nan_ok=True)
  assert columns["mean_iou"] == pytest.approx(np.nanmean(list(ious.values())))
  assert columns["pixel_accuracy"] == pytest.approx((predictions == classes).mean())
  # The loss of a correct pixel is log(e^5 + 3) - 5, of a wrong one log(e^5 + 3).
  correct = (case.images[..., 0] == case.targets) & counted
  losses = [
    np.log(np.exp(5) + 3) - 5 * a.sum() / b.sum() for a, b in zip(correct, counted, strict=True)
  ]
  assert columns["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_columns_of_several_models_are_means():
  perfect, swapped = np.diag([3.0, 1.0]), np.array([[2.0, 1.0], [1.0, 0.0]])
  confusion = segmentation.Confusion(np.ones(2), np.stack([perfect, swapped]), np.ones(2))
  columns = segmentation.summarize(confusion, ("a", "b"))
  assert columns["iou_a"] == pytest.approx((1 + 2 / 4) / 2)
  assert columns["iou_b"] == pytest.approx((1 + 0) / 2)
  assert columns["mean_iou"] == pytest.approx((1 + 1 / 4) / 2)
  assert columns["pixel_accuracy"] == pytest.approx(6 / 8)
