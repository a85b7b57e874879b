"""The bytes of a pass that recomputes statistics, counted by hand."""

from helpers.split_world import IMAGE, SHAPE, net

from fedjax_norm.split.plan import make_plan, segment_shapes
from fedjax_norm.split.tally import pass_cost


def test_a_pass_sends_activations_and_moments():
  model = net("bn")
  plan = make_plan(model, SHAPE, "mix", "body")
  cost = pass_cost(plan, *segment_shapes(model, plan, IMAGE))
  # Down: conv, mix and two norms of 4 channels, and the head with 6 inputs.
  assert cost.down == 4 * (2 * 2 * 4 + (4 * 4 + 4) + 2 * (4 + 4) + (6 * 4 + 4))
  assert cost.up == 4 * 2 * (2 * 4 + 1)  # mean, m2 and count of the two norms
  # For every example the 3x3x4 map of mix goes up and the 6 outputs of body come down.
  assert (cost.step_up, cost.step_down, cost.step_trips) == (4 * 36, 4 * 6, 0)
  assert cost.of_round([5, 7]).bytes_up == 2 * cost.up + 12 * 144
