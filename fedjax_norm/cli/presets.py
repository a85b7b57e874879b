"""``--preset=NAME``: the flags of a named experiment, which flags on the command line override."""

import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, parse, shown
from fedjax_norm.cli.method_choice import Choice, take_flag
from fedjax_norm.cli.methods import DECENTRALIZED
from fedjax_norm.errors import UnusedOptionError, UserError
from fedjax_norm.invocation import as_started
from fedjax_norm.presets import catalog
from fedjax_norm.presets.catalog import Preset

HELP = (
  "--preset=NAME takes the flags of a preset; flags on the command line override them, and flags\n"
  "of the preset that then have no effect are left out.\n"
  "--preset=list prints all presets."
)


def expand(arguments: Sequence[str], options: type[Config] | Choice, binary: str) -> list[str]:
  """Returns the command line with the preset's flags, first so that the others override them.

  ``--preset=list`` prints all presets and exits with code 0.

  Args:
    arguments: command line without the program's name.
    options: config class of the binary, or the flag that chooses the class.
    binary: name of the command.

  Raises:
    UserError: the preset is unknown, is for another binary, or sets a flag that the chosen method
      does not have.
  """
  words = flags.FlagValues().read_flags_from_files(list(arguments))
  name, others = take_flag("preset", words)
  if name is None:
    return words
  if name == "list":
    print(listing())
    sys.exit(0)
  if not name or name.startswith("-"):
    raise UserError("--preset needs a name, as in --preset=digits_dirichlet; see --preset=list.")
  preset = catalog.load(name)
  if binary == preset.binary:
    preset_flags = list(preset.flags)
  elif binary == "run":
    preset_flags = _flags_of_run(preset)
  else:
    raise UserError(
      f"preset {name} is for the command {preset.binary}; run python -m "
      f"experiments.{preset.binary} --preset={name}."
    )
  words = [*preset_flags, *others]
  config = options.config_for(words) if isinstance(options, Choice) else options
  if isinstance(options, Choice):
    known = {one.name for one in shown(config)}
    names = (flag.removeprefix("--").partition("=")[0] for flag in preset_flags)
    if unknown := next((flag for flag in names if flag not in known), None):
      raise UserError(
        f"preset {name} sets --{unknown}, which --{options.name}={options.value_in(words)} does "
        f"not have; run python -m experiments.{preset.binary} --preset={name}, or drop --preset "
        "and pass its other flags."
      )
  return [*_with_effect(preset_flags, others, config), *others]


def _with_effect(preset_flags: list[str], others: list[str], config: type[Config]) -> list[str]:
  """Returns the preset's flags without those that have no effect beside the other flags."""
  values = flags.FlagValues()
  define(config, values)
  try:
    values(["", *preset_flags, *others])
    parse(config, values)
  except UnusedOptionError as error:
    used = [flag for flag in preset_flags if flag.partition("=")[0] != f"--{error.option}"]
    if len(used) < len(preset_flags) and take_flag(error.option, others)[0] is None:
      return _with_effect(used, others, config)
  except (UserError, flags.Error):
    pass  # reported when the whole command line is parsed
  return preset_flags


def listing() -> str:
  """Returns the text that ``--preset=list`` prints: all presets by binary, and notes on them."""
  by_binary: dict[str, list[str]] = {}
  for preset in map(catalog.load, catalog.names()):
    text = (
      f"{preset.description}. Needs: {preset.needs}. Cost: {preset.cost}. "
      f"Accuracy: {preset.accuracy}."
    )
    text = textwrap.fill(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    by_binary.setdefault(preset.binary, []).append(f"  {preset.name}\n{text}")
  parts = ["\n".join([f"{binary}:", *presets]) for binary, presets in by_binary.items()]
  notes = (
    "Cost: time of the whole command, with compilation, on two CPU cores shared with other jobs.\n"
    "Accuracy: top-1 on the test set at the end, with --seed=0.\n"
    "Flags on the command line override those of a preset, as in\n"
    "python -m experiments.fedavg --preset=digits_dirichlet --norm=bn"
  )
  return as_started("\n\n".join([*parts, notes]))


def _flags_of_run(preset: Preset) -> list[str]:
  """Returns the flags by which ``experiments.run`` runs a preset of another binary."""
  algorithm, others = take_flag("algorithm", preset.flags)
  if preset.binary == "decentralized":
    method = DECENTRALIZED.configs[algorithm or DECENTRALIZED.default].algorithm
  else:
    method = algorithm or preset.binary
  return [f"--method={method}", *others]
