"""A binary that runs several methods sequentially.

The environment variable RUNS is a JSON object from method name to flags. The error of a method that
is refused goes to the file ``refusals`` in the working folder of the process.
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

PROCESS_FLAGS = ("host_devices", "coordinator_address", "num_processes", "process_id", "progress")


def main(config: Config) -> None:
  """Runs each method in the folder ``--workdir``/method name."""
  process = {name: getattr(config, name) for name in PROCESS_FLAGS}
  for method, arguments in json.loads(os.environ["RUNS"]).items():
    kind, values = ANY_METHOD.config(method), flags.FlagValues()
    define(kind, values)
    values(["run", *arguments, f"--workdir={config.workdir}/{method}"])
    try:
      train.run(dataclasses.replace(parse(kind, values), **process))
    except UserError as error:
      with open("refusals", "a") as file:
        print(error, file=file)


if __name__ == "__main__":
  app.run(main, FEDAVG_CONFIG, __doc__)
