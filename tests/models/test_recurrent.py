"""The recurrent network against PyTorch's LSTM with the same weights."""

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.norm_rows import SPECS
from helpers.torch_units import KEY, assert_close, images, randomized, shapes

from fedjax_norm import models, norm
from fedjax_norm.models.flops import layer_macs
from fedjax_norm.models.recurrent import LSTM
from fedjax_norm.norm import Mode

SHAPE = (5, 4, 2)


def small(spec=None) -> LSTM:
  return LSTM(spec or norm.create("bn"), 3, embedding=6, hidden=7)


def test_equals_pytorch_row_by_row():
  model, x = small(), images(4, *SHAPE)
  variables = randomized(shapes(model, SHAPE))
  params = variables["params"]
  cell = torch.nn.LSTM(6, 7, batch_first=True)
  with torch.no_grad():
    cell.weight_ih_l0.copy_(torch.tensor(params["gates"]["kernel"]).T)
    cell.bias_ih_l0.copy_(torch.tensor(params["gates"]["bias"]))
    cell.weight_hh_l0.copy_(torch.tensor(params["recurrence"]["kernel"]).T)
    cell.bias_hh_l0.zero_()
    rows = torch.tensor(x).reshape(4, 5, 8) @ torch.tensor(params["embedding"]["kernel"]).reshape(
      8, 6
    )
    scale, bias = (torch.tensor(params["embedding_norm"][name]) for name in ("scale", "bias"))
    rows = F.batch_norm(rows.transpose(1, 2), None, None, scale, bias, training=True)
    last = cell(F.relu(rows.transpose(1, 2)))[0][:, -1]
    theirs = last @ torch.tensor(params["head"]["kernel"]) + torch.tensor(params["head"]["bias"])
  for count_flops in (False, True):  # as a loop, and unrolled
    mode = Mode(train=True, count_flops=count_flops)
    ours, _ = jax.jit(lambda v, x, m=mode: model.apply(v, x, m, mutable=["batch_stats"]))(
      variables, x
    )
    assert_close(ours, theirs)


def test_ranges_of_stages_equal_the_whole_network():
  model, x = small(), images(2, *SHAPE)
  variables = randomized(shapes(model, SHAPE))

  @jax.jit
  def run(variables, x):
    first = model.apply(variables, x, Mode(), 0, 1)
    second = model.apply(variables, first, Mode(), 1, 2)
    return first, model.apply(variables, second, Mode(), 2), model.apply(variables, x, Mode())

  first, ours, whole = run(variables, x)
  assert first.shape == (2, 5, 6)
  np.testing.assert_array_equal(ours, whole)


@pytest.mark.parametrize("name", [n for n in norm.NAMES if n != "fixup"])
def test_every_norm_is_accepted(name):
  model = small(SPECS[name])
  params = shapes(model, SHAPE)["params"]
  normalizes = SPECS[name].normalizes
  assert ("embedding_norm" in params) == normalizes
  assert ("bias" in params["embedding"]) != normalizes
  assert ("kernel_scale" in params["recurrence"]) == (name == "wn")


def test_weight_normalization_initializes_the_recurrent_scale_to_the_length_of_the_kernel():
  model = small(norm.create("wn"))
  x = images(32, *SHAPE)
  variables = models.init(model, KEY, SHAPE)
  params = models.data_init(model, variables, x)["params"]
  length = np.linalg.norm(variables["params"]["recurrence"]["kernel"], axis=0)
  np.testing.assert_allclose(params["recurrence"]["kernel_scale"], length, rtol=1e-6)
  assert np.all(params["gates"]["kernel_scale"] != variables["params"]["gates"]["kernel_scale"])


def test_multiply_adds_of_each_layer():
  assert layer_macs(small(), SHAPE) == {
    "embedding": 5 * 8 * 6,
    "gates": 5 * 6 * 28,
    "recurrence": 5 * 7 * 28,
    "head": 7 * 3,
  }
