"""``--preset=NAME``: the flags of a named experiment, which other flags override."""

import sys
from collections.abc import Sequence

from absl import flags

from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import shown
from fedjax_norm.cli.method_choice import Choice, take_flag
from fedjax_norm.cli.methods import DECENTRALIZED
from fedjax_norm.errors import UserError
from fedjax_norm.presets import catalog
from fedjax_norm.presets.catalog import Preset
from fedjax_norm.training.terminal.tables import columns_table

HELP = (
  "--preset=NAME takes the flags of a preset; flags on the command line override them.\n"
  "--preset=list prints all presets."
)


def expand(arguments: Sequence[str], options: type[Config] | Choice, binary: str) -> list[str]:
  """Replaces ``--preset`` by the flags of the preset, placed first so that others override them.

  ``--preset=list`` prints all presets and exits with code 0.

  Args:
    arguments: command line without the program's name.
    options: config class of the binary, or the flag that chooses it.
    binary: name of the binary in ``experiments``.

  Raises:
    UserError: the preset is unknown, or the binary cannot run it.
  """
  words = flags.FlagValues().read_flags_from_files(list(arguments))
  name, others = take_flag("preset", words)
  if name is None:
    return words
  if name == "list":
    print(table())
    sys.exit(0)
  preset = catalog.load(name)
  if binary == preset.binary:
    preset_flags = list(preset.flags)
  elif binary == "run":
    preset_flags = _flags_of_run(preset)
  else:
    raise UserError(
      f"preset {name} is for another binary; run python -m experiments.{preset.binary} "
      f"--preset={name}."
    )
  words = [*preset_flags, *others]
  if isinstance(options, Choice):
    _check_flags(preset, preset_flags, options, words)
  return words


def table() -> str:
  """Returns the text of ``--preset=list``."""
  presets = map(catalog.load, catalog.names())
  rows = [(p.name, p.binary, p.description, p.needs, p.cost, p.accuracy) for p in presets]
  head = ("preset", "binary", "description", "needs", "cost", "accuracy")
  return (
    f"{columns_table(head, rows)}\n\n"
    "Cost: time of the command, with compilation, on two CPU cores that other jobs used too.\n"
    "Accuracy: top-1 on the test set at the end, seed 0.\n"
    "Flags on the command line override those of a preset, as in\n"
    "python -m experiments.fedavg --preset=digits_dirichlet --norm=bn"
  )


def _flags_of_run(preset: Preset) -> list[str]:
  """Returns the flags with which ``experiments.run`` runs the preset of another binary."""
  algorithm, others = take_flag("algorithm", preset.flags)
  if preset.binary == "decentralized":
    method = DECENTRALIZED.configs[algorithm or DECENTRALIZED.default].algorithm
  else:
    method = algorithm or preset.binary
  return [f"--method={method}", *others]


def _check_flags(
  preset: Preset, preset_flags: Sequence[str], choice: Choice, words: Sequence[str]
) -> None:
  """Raises a UserError if the chosen method does not have a flag of the preset."""
  known = {one.name for one in shown(choice.config_for(words))}
  for flag in preset_flags:
    name = flag.removeprefix("--").partition("=")[0]
    if name not in known:
      raise UserError(
        f"preset {preset.name} sets --{name}, which --{choice.name}={choice.value_in(words)} does "
        f"not have; run python -m experiments.{preset.binary} --preset={preset.name}, or give the "
        "other flags of the preset yourself."
      )
