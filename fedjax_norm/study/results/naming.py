"""Names of finished runs by the options in which they differ, with the values in force."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from fedjax_norm import options
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.finished_run import config_class
from fedjax_norm.errors import UserError
from fedjax_norm.norm.spec import NORMS
from fedjax_norm.study.advice.factors import describe
from fedjax_norm.training.finished_run import has_single_model

# Groups of options that a name lists only if runs differ in nothing else: how a run was carried
# out and tested, not what was trained.
_MINOR_GROUPS = ("machine", "evaluation", "run")
_MINOR = ("seed", "eval_every", "version", "validation_share", "unseen_clients", "average_last")
_WORLD_GROUPS = ("data", "partition")
_WORLD = ("feature_shift", "feature_scale")
# What is named even if it has its default value.
_ALWAYS = ("norm", "algorithm", "local_steps", "local_epochs")

Saved = Mapping[str, Any]
"""The content of a run's ``config.json``."""


class Label(NamedTuple):
  """What a finished run is.

  Attributes:
    name: unique name within the setting, such as ``gn, fedavg, local_steps=6``.
    options: norm, algorithm, local steps, and the options by which the runs differ (see ``label``).
    setting: data and partition.
  """

  name: str
  options: dict[str, Any]
  setting: str


def label(configs: Sequence[Saved]) -> list[Label]:
  """Returns a label for each run.

  A name lists the options in which the runs of a setting differ. An option that only one run has is
  listed if its value is not the default, and one that is off by default if it is on. Options of the
  machine, the evaluation and the seed are listed only for runs that differ in nothing else.

  Args:
    configs: the saved options of each run, with the values that were in force.

  Raises:
    UserError: two runs have the same options, such as one run that was named twice.
  """
  groups = {one.name: one.group for one in options.of(Config)}
  world = [*_WORLD, *(name for name, group in groups.items() if group in _WORLD_GROUPS)]
  minor = {*_MINOR, *(name for name, group in groups.items() if group in _MINOR_GROUPS)}
  chosen = [name for name in _different(configs) if name in world]
  settings = [_setting(config, chosen) for config in configs]
  found: dict[int, Label] = {}
  for setting in dict.fromkeys(settings):
    members = [i for i, one in enumerate(settings) if one == setting]
    named = _names([configs[i] for i in members], minor)
    found |= {i: Label(*name, setting) for i, name in zip(members, named, strict=True)}
  return [found[i] for i in range(len(configs))]


def _names(configs: Sequence[Saved], minor: Set[str]) -> list[tuple[str, dict[str, Any]]]:
  """Returns (name, options) of each run of a setting."""
  different = _different(configs)
  kept = [{n: config[n] for n in _ALWAYS if in_force(n, config)} for config in configs]
  for names in ([name for name in different if name not in minor], different):
    listed = [_listed(config, configs, names) for config in configs]
    texts = [describe(one or always) for one, always in zip(listed, kept, strict=True)]
    if len(set(texts)) == len(configs):
      parts = zip(texts, kept, listed, strict=True)
      return [(text, {**always, **one}) for text, always, one in parts]
  raise UserError("two of the runs have the same options; name each run once.")


def single_model(config: Saved) -> bool:
  """Returns whether all clients of a run use the saved model."""
  norm = NORMS.get(config.get("norm", ""))
  return norm is None or has_single_model(config, norm)


def in_force(name: str, config: Saved) -> bool:
  """Returns whether a saved option had an effect: it has a value, and what it needs is on."""
  needs = _options_of(config).get(name, (None, None))[1]
  if config.get(name) in (None, "", (), []):
    return False
  if name == "batch_stats":  # fedbn implies that they stay on the client
    return _has_statistics(config) and not config.get("fedbn")
  other, _, values = (needs or "").partition("=")
  if not needs or other not in config:
    return True
  return str(config[other]) in values.split(",") if values else bool(config[other])


def _has_statistics(config: Saved) -> bool:
  norm = NORMS.get(config.get("norm", ""))
  return norm is not None and norm.has_running_statistics


def _different(configs: Sequence[Saved]) -> list[str]:
  """Returns the options in whose values the runs differ; a missing option is not in force."""
  keys = sorted({key for config in configs for key in config})
  keys = [key for key in keys if key != "method"]  # the algorithm, in another word
  return [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]


def _listed(config: Saved, configs: Sequence[Saved], names: Sequence[str]) -> dict[str, Any]:
  """Returns those of the options ``names`` that the name of a run lists."""

  def listed(name: str) -> bool:
    default = _default(name, config)
    if default is False and config[name] is False:
      return False  # the others say that it is on
    # Another run's unset option counts if it could have had the same value as this run's.
    others = (one for one in configs if name in one)
    alike = (one for one in others if in_force(name, one) or _default(name, one) == default)
    changed = default is not None and config[name] != default
    return changed or name in _ALWAYS or any(one[name] != config[name] for one in alike)

  return {name: config[name] for name in names if in_force(name, config) and listed(name)}


def _default(name: str, config: Saved) -> Any:
  return _options_of(config).get(name, (None, None))[0]


def _options_of(config: Saved) -> dict[str, tuple[Any, str | None]]:
  """Returns option -> (default, what it needs) of a run's method."""
  return {one.name: (one.default, one.needs) for one in options.of(config_class(dict(config)))}


def _setting(config: Saved, names: Sequence[str]) -> str:
  """Returns the options of the data and the partition in which the runs differ, or their kind."""
  words = [str(config[name]) for name in ("data", "partition") if name in names or not names]
  rest = [name for name in names if name not in ("data", "partition") and in_force(name, config)]
  return ", ".join(word for word in (*words, describe({n: config[n] for n in rest})) if word)
