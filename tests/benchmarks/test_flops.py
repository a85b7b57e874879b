"""The operations counted by hand, against PyTorch's own count of the same models."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops, workloads
from benchmarks.peers import torch_models

BY_KEY = {one.key: one for one in workloads.table("abcdfgh", "full", accelerator=False)}


@pytest.mark.parametrize("key", ["a", "b", "c", "d", "f1000", "g", "h"])
def test_a_round_has_the_operations_that_pytorch_counts(key):
  one = BY_KEY[key]
  height, width, channels = one.data.image_shape
  model = torch_models.network(one.job("", 1), one.data.image_shape)
  with FlopCounterMode(display=False) as counter:
    model(torch.zeros(2, channels, height, width)).sum().backward()
  examples = one.cohort * {"g": 50}.get(key, one.local_steps * one.batch_size)
  assert flops.per_round(one) == counter.get_total_flops() / 2 * examples


def test_the_cnn_is_that_of_the_benchmark():
  one = BY_KEY["a"]
  model = torch_models.network(one.job("", 1), one.data.image_shape)
  assert sum(p.numel() for p in model.parameters()) == 1_626_442
