"""The estimate of the time on a GPU."""

import math

import pytest
from helpers.paper_tables import by_label

from fedjax_norm.papers import gpu_time


def test_the_time_is_that_of_steps_or_of_operations(monkeypatch):
  """By hand: 64,000 steps of LeNet's five layers, and 50 rounds of 10 epochs of NIID-Bench."""
  bsp = by_label("004.6.lenet")["BSP, IID"]
  assert gpu_time.minutes([bsp, bsp], 3) == pytest.approx(3 * (60 + 64_000 * 0.005) / 60)
  fedavg = by_label("niid_bench.cifar10")["FedAvg, IID"]
  steps = 50 * 10 * 50_000 / 640
  assert gpu_time.minutes([fedavg], 1) == pytest.approx((60 + steps * 0.005) / 60)
  monkeypatch.setattr(gpu_time, "_FLOPS", 1e9)
  macs = 28 * 28 * 75 * 6 + 10 * 10 * 150 * 16 + 400 * 120 + 120 * 84 + 84 * 10
  assert gpu_time.minutes([fedavg], 1) == pytest.approx((60 + steps * 6 * macs * 640 / 1e9) / 60)
  assert math.isnan(gpu_time.minutes([by_label("004.fig3")["BSP, IID"]], 1))
