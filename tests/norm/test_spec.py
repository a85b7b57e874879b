"""The table of norms, and the rules of legality."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.errors import UserError
from fedjax_norm.norm import NAMES, NormSpec, Renorm, create

# name: (options, reduced axes, groups of 12 channels, source in training)
TABLE = {
  "bn": ({}, "NSK", 12, "batch"),
  "sync_bn": ({}, "NSK", 12, "batch"),
  "fixbn": ({}, "NSK", 12, "batch"),
  "brn": ({}, "NSK", 12, "corrected"),
  "gn": ({"groups": 4}, "SK", 4, "batch"),
  "ln": ({}, "SK", 1, "batch"),
  "in": ({}, "SK", 12, "batch"),
  "cn": ({}, "K", 1, "batch"),
  "wn": ({}, "", None, "batch"),
  "fixup": ({}, "", None, "batch"),
  "none": ({}, "", None, "batch"),
}


def test_the_table_lists_every_name():
  assert set(TABLE) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_its_row_of_the_table(name):
  options, reduce, groups, source = TABLE[name]
  spec = create(name, epsilon=1e-3, **options)
  assert (spec.name, spec.reduce, spec.source, spec.epsilon) == (
    name,
    reduce,
    source,
    1e-3 if reduce else 1e-5,
  )
  assert spec.normalizes == (reduce != "")
  assert spec.has_running_statistics == spec.updates_running_statistics == (reduce == "NSK")
  if groups is not None:
    assert spec.num_groups(12) == groups
  assert spec.scale
  assert spec.across_nodes == (name == "sync_bn")
  assert spec.settles == (name == "fixbn")
  assert spec.weight_norm == (name == "wn")
  assert spec.fixup == (name == "fixup")
  assert spec.axis_names == ()


def test_options_reach_the_spec():
  assert create("bn", decay=0.75).decay == 0.75
  ramp = Renorm(2.0, 1.0, 3, 5, 4)
  assert create("brn", renorm=ramp).renorm == ramp
  assert create("brn").renorm == Renorm(3.0, 5.0, 5_000, 40_000, 25_000)  # Ioffe 2017, sec. 3
  centred = create("wn", mean_only_bn=True)
  assert centred.weight_norm
  assert not centred.scale
  assert centred.has_running_statistics
  assert centred.num_groups(6) == 6


def test_specs_are_values():
  assert create("gn", groups=2) == create("gn", groups=2) != create("gn", group_size=2)
  assert hash(create("brn")) == hash(create("brn"))
  with pytest.raises(dataclasses.FrozenInstanceError):
    create("bn").decay = 0.5


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("batchnorm", {}, "unknown norm 'batchnorm'; choose one of bn, sync_bn"),
    ("gn", {}, "needs its number of groups or its group size"),
    ("gn", {"groups": 2, "group_size": 2}, "not both"),
    ("gn", {"groups": 0}, "groups of norm 'gn' is 0; it must be at least 1"),
    ("gn", {"group_size": -1}, "group_size of norm 'gn' is -1"),
    ("bn", {"groups": 2}, "'bn' has no groups to choose; drop groups and group_size or use gn"),
    ("ln", {"group_size": 2}, "'ln' has no groups"),
    ("none", {"groups": 2}, "'none' has no groups"),
    ("bn", {"mean_only_bn": True}, "belongs to norm 'wn', not to 'bn'"),
    ("bn", {"renorm": Renorm()}, "belong to norm 'brn', not to 'bn'"),
    ("brn", {"renorm": Renorm(r_max=0.5)}, "r_max of at least 1"),
    ("brn", {"renorm": Renorm(d_max=-1.0)}, "d_max of at least 0"),
    ("brn", {"renorm": Renorm(r_max=float("nan"))}, "r_max of at least 1"),
    ("bn", {"decay": 1.0}, "needs 0 <= decay < 1 and epsilon >= 0; got 1.0"),
    ("bn", {"decay": -0.1}, "needs 0 <= decay < 1"),
    ("ln", {"epsilon": -1e-5}, "epsilon >= 0"),
  ],
)
def test_create_refuses(name, options, message):
  with pytest.raises(UserError, match=message):
    create(name, **options)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"reduce": "NK", "groups": 1}, "reduces 'NK'; choose"),
    ({"reduce": "SK"}, "needs either groups or group_size"),
    ({"reduce": "SK", "groups": 2, "group_size": 2}, "not both"),
    ({"reduce": "SK", "groups": 1, "axis_names": ("nodes",)}, "nothing to merge across nodes"),
    ({"reduce": "K", "groups": 1, "across_nodes": True}, "nothing to merge across nodes"),
    ({"across_nodes": True}, "nothing to merge across nodes"),
    ({"reduce": "SK", "groups": 1, "source": "running"}, "keeps no running statistics"),
    ({"source": "running"}, "keeps no running statistics"),
    ({"reduce": "NSK", "group_size": 1, "source": "corrected"}, "its ramps together"),
    ({"reduce": "NSK", "group_size": 1, "renorm": Renorm()}, "its ramps together"),
  ],
)
def test_illegal_specs_are_refused_when_they_are_built(fields, message):
  with pytest.raises(UserError, match=message):
    NormSpec("custom", **fields)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 15))
def test_groups_times_their_size_are_the_channels(groups, size, rest):
  channels = groups * size
  assert create("gn", groups=groups).num_groups(channels) == groups
  assert create("gn", group_size=size).num_groups(channels) == groups
  if rest % groups:
    with pytest.raises(UserError, match=f"{groups} groups do not divide .* {channels + rest} chan"):
      create("gn", groups=groups).num_groups(channels + rest)
  if rest % size:
    with pytest.raises(UserError, match=f"group size of {size} does not divide"):
      create("gn", group_size=size).num_groups(channels + rest)


@pytest.mark.parametrize("name", ["bn", "sync_bn", "fixbn", "brn"])
def test_frozen_specs_take_the_running_statistics_and_leave_them(name):
  spec = create(name, decay=0.5, epsilon=1e-4).bind(("nodes",))
  frozen = spec.frozen()
  assert frozen.source == "running"
  assert frozen.normalizes
  assert frozen.has_running_statistics
  assert not frozen.updates_running_statistics
  assert not frozen.axis_names
  assert not frozen.across_nodes  # it exchanges nothing, so that nodes need no lock-step
  assert frozen.bind(()) == frozen
  assert (frozen.decay, frozen.epsilon, frozen.settles) == (0.5, 1e-4, name == "fixbn")
  assert frozen.frozen() == frozen


@pytest.mark.parametrize("name", ["gn", "ln", "in", "cn", "wn", "fixup", "none"])
def test_nothing_to_freeze_without_running_statistics(name):
  with pytest.raises(UserError, match=f"'{name}' has no running statistics that could be frozen"):
    create(name, **TABLE[name][0]).frozen()


@pytest.mark.parametrize("name", NAMES)
def test_only_a_norm_across_nodes_binds_axis_names(name):
  spec = create(name, **TABLE[name][0])
  if name == "sync_bn":
    assert spec.bind(("devices", "nodes")).axis_names == ("devices", "nodes")
    with pytest.raises(UserError, match="lock-step; use --backend=vmap"):
      spec.bind(())
  else:
    assert spec.bind(("nodes",)) == spec.bind(()) == spec
