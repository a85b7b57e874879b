"""The count of operations, against counts by hand, PyTorch's and the literature's."""

import pytest

from benchmarks import flops as by_hand
from fedjax_norm import models, norm
from fedjax_norm.models import conv, flops

SHAPE = (32, 32, 3)


def create(name, spec="bn", classes=10, shape=SHAPE):
  return models.create(name, norm.create(spec), classes, shape)


@pytest.mark.parametrize("name", ["tiny", "cnn", "resnet20", "resnet18"])
def test_the_layers_are_those_counted_by_hand(name):
  macs = flops.layer_macs(create(name), SHAPE)
  total, stem = by_hand.forward_macs(name, *SHAPE)
  assert (sum(macs.values()), next(iter(macs.values()))) == (total, stem)
  assert flops.training_flops(create(name), SHAPE) == 2 * (3 * total - stem)


def test_resnet50_has_the_operations_that_are_published():
  # 4.09e9 multiply-adds at 224 pixels, as torchvision and fvcore count them
  macs = flops.layer_macs(create("resnet50", classes=1000, shape=(224, 224, 3)), (224, 224, 3))
  assert sum(macs.values()) == 4_089_184_256


@pytest.mark.parametrize("spec", ["none", "wn", "gn"])
def test_norms_count_nothing_and_bind_nothing(spec):
  fields = {"groups": 8} if spec == "gn" else {}
  model = models.create("tiny", norm.create(spec, **fields), 10, SHAPE)
  assert flops.layer_macs(model, SHAPE) == flops.layer_macs(create("tiny"), SHAPE)


def test_the_count_does_not_depend_on_how_convolutions_are_lowered(monkeypatch):
  counts = []
  for on_cpu in (True, False):
    monkeypatch.setattr(conv, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
    counts.append(flops.layer_macs(create("resnet20"), SHAPE))
  assert counts[0] == counts[1]
