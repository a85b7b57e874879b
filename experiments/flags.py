"""From the fields of a dataclass to absl's flags, and from the parsed flags to the dataclass."""

import dataclasses
from typing import Any

from absl import flags


def shown(config: type) -> list[dataclasses.Field]:
  """The fields of a config that are flags; what its class calls ``hidden`` keeps its default."""
  hidden = getattr(config, "hidden", ())
  return [field for field in dataclasses.fields(config) if field.name not in hidden]


def define(config: type, values: flags.FlagValues = flags.FLAGS, **defaults: Any) -> None:
  """Defines the flags of a config's fields.

  Args:
    config: the dataclass.
    values: where the flags are defined.
    **defaults: other defaults than the class's, for a binary of its own.
  """
  for field in shown(config):
    options = dict(field.metadata)
    definer, text = options.pop("define"), options.pop("help")
    positional = (options.pop("enum_values"),) if "enum_values" in options else ()
    default = defaults.get(field.name, field.default)
    definer(field.name, default, *positional, text, flag_values=values, **options)


def parse(config: type, values: flags.FlagValues = flags.FLAGS) -> Any:
  """The config that the parsed flags make."""
  return config(**{field.name: values[field.name].value for field in shown(config)})
