"""A binary that makes the runs of several methods, one after another.

RUNS in the environment lists their names and flags as JSON. What a method is refused for is written
to the file ``refusals`` in the process's own folder.
"""

import dataclasses
import json
import os

from absl import flags

from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.cli.methods import ANY_METHOD, FEDAVG_CONFIG
from fedjax_norm.errors import UserError

PLACE = ("host_devices", "coordinator_address", "num_processes", "process_id", "progress")


def main(config: Config) -> None:
  """Runs each method in a folder of its name, under ``--workdir``."""
  place = {name: getattr(config, name) for name in PLACE}
  for method, arguments in json.loads(os.environ["RUNS"]).items():
    kind, values = ANY_METHOD.config(method), flags.FlagValues()
    define(kind, values)
    values(["run", *arguments, f"--workdir={config.workdir}/{method}"])
    try:
      train.run(dataclasses.replace(parse(kind, values), **place))
    except UserError as error:
      with open("refusals", "a") as file:
        print(error, file=file)


if __name__ == "__main__":
  app.run(main, FEDAVG_CONFIG)
