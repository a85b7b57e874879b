"""The estimate of the time that cells take."""

import dataclasses
import math

import pytest
from helpers.paper_tables import by_label

from fedjax_norm.papers import expected_time
from fedjax_norm.papers.expected_time import GPU, Machine, total


def test_the_time_is_that_of_steps_or_of_operations():
  """By hand: 64,000 steps of LeNet's five layers, and 50 rounds of 10 epochs of NIID-Bench."""
  fast = GPU._replace(flops=math.inf)
  bsp = by_label("004.6.lenet")["BSP, IID"]
  assert total([bsp, bsp], "full", fast, 1) == pytest.approx(60 + 64_000 * 0.005)
  tuned = bsp._replace(rates=(0.01, 0.1, 1.0))  # three quarters, two halves and two final runs
  assert total([tuned], "full", fast, 2) == pytest.approx(3.75 * (60 + 64_000 * 0.005))
  fedavg = by_label("niid_bench.cifar10")["FedAvg, IID"]
  steps = 50 * 10 * 50_000 / 640
  assert total([fedavg], "full", fast, 1) == pytest.approx(60 + steps * 0.005)
  macs = 28 * 28 * 75 * 6 + 10 * 10 * 150 * 16 + 400 * 120 + 120 * 84 + 84 * 10
  config = fedavg.config("full")
  operations = 6 * macs * 25_000_000 + 50 / config.eval_every * 2 * macs * 10_000
  assert total([fedavg], "full", Machine(1.0, 0.0, 1e9), 1) == pytest.approx(1 + operations / 1e9)
  unknown = by_label("004.fig3")["BSP, IID"]
  assert math.isnan(total([unknown, bsp], "full", GPU, 1))


def test_smaller_images_take_less_time():
  cell = by_label("004.6.lenet")["BSP, IID"].config("small")
  small = expected_time.seconds(cell, expected_time.CPU_CORE)
  assert 30 < small < 90  # 27 to 95 s were measured, with norms and beside other jobs


def test_fewer_classes_and_a_smaller_stem_take_less_time():
  cell = by_label("002.tiny_imagenet")["BN"].config("small")
  operations = Machine(0.0, 0.0, 1e9)
  small, whole, large = (
    expected_time.seconds(config, operations)
    for config in (
      cell,
      dataclasses.replace(cell, first_classes=None),
      dataclasses.replace(cell, stem="cifar"),
    )
  )
  # The tests have a quarter of the images; the stem for ImageNet has a sixteenth of the pixels.
  steps = small - (whole - small) / 3
  assert 0 < steps < small < whole
  assert 12 < large / small < 17
