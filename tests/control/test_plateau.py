"""The rate lowered on a plateau, against PyTorch's scheduler and by hand."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.control.plateau import Plateau


def factors(plateau, losses, first=1):
  """Returns the factor of the rate after each loss, with an evaluation in every round."""
  state, scales = plateau.init(), []
  for round_, loss in enumerate(losses, start=first):
    state = plateau.observe(state, loss, round_)
    scales.append(state.scale)
  return np.array(scales)


def pytorch_factors(factor, patience, tolerance, losses):
  """Returns PyTorch's factors; its patience does not count the evaluation that lowers the rate."""
  optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
  scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
    optimizer, "min", factor, patience - 1, threshold=tolerance, threshold_mode="rel", eps=0
  )
  rates = []
  for loss in losses:
    scheduler.step(float(loss))
    rates.append(scheduler.get_last_lr()[0])
  return np.array(rates)


# Losses differ by more than rounding errors from the tolerance, so that float32 and float64 agree.
LOSSES = st.lists(
  st.sampled_from([0.125, 0.25, 0.5, 0.96, 0.99, 1.0, 2.0]), min_size=8, max_size=24
)


@given(LOSSES, st.sampled_from([1, 2, 4]), st.sampled_from([(0.02, 0.1), (0.3, 0.5)]))
@settings(max_examples=60, derandomize=True)
def test_equals_pytorch(losses, patience, rest):
  tolerance, factor = rest
  actual = factors(Plateau(factor, patience, tolerance), losses)
  np.testing.assert_allclose(
    actual, pytorch_factors(factor, patience, tolerance, losses), rtol=1e-5
  )


def test_by_hand():
  losses = [1.0, 0.8, 0.81, 0.8, 0.7, 0.72, 0.6999, 0.71, 0.9, 0.9, 0.9]
  # A decrease below 0.1% does not count: the rate falls three evaluations after 0.7, and again
  # three evaluations later.
  expected = [1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]
  np.testing.assert_array_equal(factors(Plateau(0.5, 3), losses), expected)


def test_evaluations_during_the_warm_up_are_ignored():
  # The loss is lowest during the warm-up, which would lower the rate if it were not ignored.
  losses = [0.1, 0.1, 0.1, 0.1, 0.9, 0.8, 0.8, 0.8]
  plateau = Plateau(0.5, 2, start=4)
  np.testing.assert_array_equal(factors(plateau, losses), [1, 1, 1, 1, 1, 1, 1, 0.5])
  np.testing.assert_array_equal(
    factors(plateau._replace(start=0), losses), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
  )
