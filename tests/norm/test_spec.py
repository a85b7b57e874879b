"""The table of norms, and the combinations of fields that are rejected."""

import dataclasses

import pytest
from helpers.norm_rows import BATCH, ROWS, SPECS
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import options
from fedjax_norm.cli.commands.stages import StagesFlags
from fedjax_norm.cli.config import Config
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NORMS, NormConfig, NormSpec, Renorm, create


@pytest.mark.parametrize("name", ROWS)
def test_every_norm_has_the_fields_of_its_row(name):
  row, spec = ROWS[name], ROWS[name].spec(name, epsilon=1e-3)
  assert spec.normalizes == (row.reduce != "")
  assert spec.has_running_statistics == spec.updates_running_statistics == (name in BATCH)
  if row.groups is not None:
    assert spec.num_groups(12) == row.groups
  fields = {key: getattr(spec, key) for key in ("groups", "group_size")}
  fields |= {"reduce": row.reduce, "epsilon": 1e-3, **row.others}
  assert spec == NormSpec(name.partition("-")[0], **fields)


def test_options_reach_the_spec():
  assert create("bn", decay=0.75).decay == 0.75
  ramp = Renorm(2.0, 1.0, 3, 5, 4)
  assert create("brn", renorm=ramp).renorm == ramp
  assert create("brn").renorm == Renorm(3.0, 5.0, 5_000, 40_000, 25_000)  # Ioffe 2017, sec. 3


def test_specs_are_immutable_and_compare_by_value():
  assert create("gn", groups=2) == create("gn", groups=2) != create("gn", group_size=2)
  assert hash(create("brn")) == hash(create("brn"))
  with pytest.raises(dataclasses.FrozenInstanceError):
    create("bn").decay = 0.5


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("batchnorm", {}, "unknown norm 'batchnorm'; choose one of bn, sync_bn"),
    ("gn", {"groups": 2, "group_size": 2}, "not both"),
    ("gn", {"groups": 0}, "groups of norm 'gn' is 0; it must be at least 1"),
    ("gn", {"group_size": -1}, "group_size of norm 'gn' is -1"),
    (
      "bn",
      {"groups": 2},
      "'bn' has no groups to choose; drop groups and group_size or use bgn or gn",
    ),
    ("ln", {"group_size": 2}, "'ln' has no groups"),
    ("none", {"groups": 2}, "'none' has no groups"),
    ("bn", {"mean_only_bn": True}, "'bn' has no mean-only BN; drop mean_only_bn or use norm 'wn'"),
    ("bn", {"renorm": Renorm()}, "'bn' has no r_max and d_max; drop renorm or use norm 'brn'"),
    ("brn", {"renorm": Renorm(r_max=0.5)}, "r_max of at least 1"),
    ("brn", {"renorm": Renorm(d_max=-1.0)}, "d_max of at least 0"),
    ("brn", {"renorm": Renorm(r_max=float("nan"))}, "r_max of at least 1"),
    ("bn", {"decay": 1.0}, "needs 0 <= decay < 1 and epsilon >= 0; got 1.0"),
    ("bn", {"decay": -0.1}, "needs 0 <= decay < 1"),
    ("ln", {"epsilon": -1e-5}, "epsilon >= 0"),
  ],
)
def test_create_rejects_wrong_options(name, options, message):
  with pytest.raises(UserError, match=message):
    create(name, **options)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"reduce": "NK", "groups": 1}, "reduces 'NK'; choose"),
    ({"reduce": "SK", "groups": 2, "group_size": 2}, "not both"),
    ({"reduce": "SK", "groups": 1, "axis_names": ("clients",)}, "nothing to merge across clients"),
    ({"reduce": "K", "groups": 1, "across_clients": True}, "nothing to merge across clients"),
    ({"across_clients": True}, "nothing to merge across clients"),
    ({"reduce": "SK", "groups": 1, "source": "running"}, "keeps no running statistics"),
    ({"source": "running"}, "keeps no running statistics"),
    ({"reduce": "SK", "freezes_statistics": True}, "keeps no running statistics to .* freeze"),
    ({"reduce": "NSK", "axis_names": ("clients",)}, "has axis_names but not across_clients"),
    ({"reduce": "NSK", "source": "corrected", "renorm": Renorm(), "scale": False}, "deviation"),
    ({"reduce": "NSK", "group_size": 1, "source": "corrected"}, "need each other; give both"),
    ({"reduce": "NSK", "group_size": 1, "renorm": Renorm()}, "need each other; give both"),
  ],
)
def test_illegal_combinations_of_fields_are_rejected(fields, message):
  with pytest.raises(UserError, match=message):
    NormSpec("custom", **fields)


@settings(max_examples=50, derandomize=True)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 15))
def test_groups_times_group_size_are_the_channels(groups, size, rest):
  channels = groups * size
  assert create("gn", groups=groups).num_groups(channels) == groups
  assert create("gn", group_size=size).num_groups(channels) == groups
  if rest % groups:
    with pytest.raises(UserError, match=f"{groups} groups do not divide .* {channels + rest} chan"):
      create("gn", groups=groups).num_groups(channels + rest)
  if rest % size:
    with pytest.raises(UserError, match=f"group size of {size} does not divide"):
      create("gn", group_size=size).num_groups(channels + rest)


@pytest.mark.parametrize("name", BATCH)
def test_frozen_specs_use_the_running_statistics_without_updates(name):
  spec = ROWS[name].spec(name, decay=0.5, epsilon=1e-4).bind(("clients",))
  frozen = spec.frozen()
  assert frozen.source == "running"
  assert frozen.normalizes
  assert frozen.has_running_statistics
  assert not frozen.updates_running_statistics
  assert not frozen.axis_names
  assert not frozen.across_clients  # clients exchange nothing, so they need no lock-step
  assert frozen.bind(()) == frozen
  assert (frozen.decay, frozen.epsilon, frozen.freezes_statistics) == (0.5, 1e-4, name == "fixbn")
  assert frozen.frozen() == frozen


@pytest.mark.parametrize("name", [name for name in ROWS if name not in BATCH])
def test_norms_without_running_statistics_cannot_be_frozen(name):
  with pytest.raises(UserError, match="has no running statistics that could be frozen"):
    SPECS[name].frozen()


@pytest.mark.parametrize("name", ROWS)
def test_only_a_norm_across_clients_binds_axis_names(name):
  spec = SPECS[name]
  if spec.across_clients:
    assert spec.bind(("devices", "clients")).axis_names == ("devices", "clients")
    with pytest.raises(UserError, match="lock-step; use --backend=vmap"):
      spec.bind(())
  else:
    assert spec.bind(("clients",)) == spec.bind(()) == spec


def test_missing_groups_are_reported():
  for name in ("gn", "bgn"):
    assert create(name).needs_groups
    with pytest.raises(UserError, match=f"'{name}' has no groups yet; give it groups or group_s"):
      create(name).num_groups(12)


# ------------------------------------------------------------------ the options of a run


@pytest.mark.parametrize("kind", [Config, StagesFlags])
def test_the_command_line_offers_every_norm(kind):
  (norm,) = (item for item in options.of(kind) if item.name == "norm")
  assert norm.choices == tuple(NORMS)


@pytest.mark.parametrize("name", ROWS)
def test_a_run_can_have_every_norm(name):
  options = {key: value for key, value in ROWS[name].options.items() if key != "renorm"}
  spec = NormConfig(norm=name.partition("-")[0], **options).make_norm(rounds=100)
  # Ioffe's ramps, as shares of the rounds
  renorm = Renorm(3.0, 5.0, 4.0, 30.0, 20.0) if SPECS[name].renorm else None
  assert spec == dataclasses.replace(SPECS[name], renorm=renorm)


def test_the_options_of_a_run_reach_the_spec():
  config = NormConfig("brn", norm_decay=0.5, norm_epsilon=1e-3, brn_r_max=2.0, brn_d_max=1.0)
  config = dataclasses.replace(config, brn_ramp=(0.1, 0.2, 0.5))
  assert config.make_norm(10) == create(
    "brn", decay=0.5, epsilon=1e-3, renorm=Renorm(2.0, 1.0, 1.0, 5.0, 2.0)
  )


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"norm": "batchnorm"}, "unknown norm 'batchnorm'; choose one of bn"),
    ({"norm": "bn", "groups": 2}, "--groups does nothing here: it needs --norm=bgn or gn"),
    ({"norm": "ln", "group_size": 2}, "--group_size does nothing here"),
    ({"norm": "gn", "groups": 2, "group_size": 2}, "--groups or --group_size, not both"),
    ({"norm": "gn", "groups": 0}, "--groups is 0; it must be at least 1"),
    ({"norm": "gn", "mean_only_bn": True}, "--mean_only_bn does nothing here: it needs --norm=wn"),
    ({"norm": "gn", "norm_decay": 0.9}, "--norm_decay does nothing here"),
    ({"norm": "wn", "norm_decay": 0.5}, "--norm_decay does nothing here: it needs --mean_only_bn"),
    ({"norm": "none", "norm_epsilon": 1e-5}, "--norm_epsilon does nothing here"),
    ({"norm": "wn", "mean_only_bn": True, "norm_epsilon": 1e-3}, "--norm_epsilon does nothing"),
    ({"norm_decay": 1.0}, "--norm_decay is 1; it must be at least 0 and below 1"),
    ({"norm_epsilon": -1.0}, "--norm_epsilon is -1; it must be at least 0"),
    ({"norm": "bn", "brn_r_max": 3.0}, "--brn_r_max does nothing here: it needs --norm=brn"),
    ({"norm": "brn", "brn_r_max": 0.5}, "--brn_r_max is 0.5; it must be at least 1"),
    ({"norm": "brn", "brn_ramp": (0.1, 0.2)}, "--brn_ramp takes three fractions"),
    ({"norm": "brn", "brn_ramp": (0.1, 0.2, 1.5)}, "--brn_ramp takes three fractions"),
    ({"norm": "brn", "brn_ramp": (0.5, 0.2, 0.3)}, "--brn_ramp must not end before its start"),
  ],
)
def test_wrong_options_of_a_run_are_rejected(given, message):
  with pytest.raises(UserError, match=message):
    options.make(NormConfig, **given)
