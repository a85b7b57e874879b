"""When the rate is lowered, against PyTorch's scheduler and by hand."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.control.plateau import Plateau


def factors(plateau, losses, first=1):
  """The factor after each look, a round apart."""
  state, seen = plateau.init(), []
  for round_, loss in enumerate(losses, start=first):
    state = plateau.observe(state, loss, round_)
    seen.append(state.scale)
  return np.array(seen)


def pytorchs(factor, patience, tolerance, losses):
  """The same by PyTorch, which acts after ``patience`` looks and one more."""
  optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
  scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
    optimizer, "min", factor, patience - 1, threshold=tolerance, threshold_mode="rel", eps=0
  )
  seen = []
  for loss in losses:
    scheduler.step(float(loss))
    seen.append(scheduler.get_last_lr()[0])
  return np.array(seen)


# A loss is one of a few values apart by more than the tolerance, so that float32 decides as float64
# does.
LOSSES = st.lists(
  st.sampled_from([0.125, 0.25, 0.5, 0.96, 0.99, 1.0, 2.0]), min_size=8, max_size=24
)


@given(LOSSES, st.sampled_from([1, 2, 4]), st.sampled_from([(0.02, 0.1), (0.3, 0.5)]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pytorch_lowers_it_at_the_same_looks(losses, patience, rest):
  tolerance, factor = rest
  actual = factors(Plateau(factor, patience, tolerance), losses)
  np.testing.assert_allclose(actual, pytorchs(factor, patience, tolerance, losses), rtol=1e-5)


def test_by_hand():
  losses = [1.0, 0.8, 0.81, 0.8, 0.7, 0.72, 0.6999, 0.71, 0.9, 0.9, 0.9]
  # A fall of less than 0.1% is none: three looks after 0.7 the rate falls, and three later again.
  expected = [1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]
  np.testing.assert_array_equal(factors(Plateau(0.5, 3), losses), expected)


def test_looks_during_the_warm_up_are_left_out():
  # The loss is low at the start of the warm-up: were it looked at, no later one would be better.
  losses = [0.1, 0.1, 0.1, 0.1, 0.9, 0.8, 0.8, 0.8]
  plateau = Plateau(0.5, 2, start=4)
  np.testing.assert_array_equal(factors(plateau, losses), [1, 1, 1, 1, 1, 1, 1, 0.5])
  np.testing.assert_array_equal(
    factors(plateau._replace(start=0), losses), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
  )
