"""A binary for the tests of processes: it prints sums over the devices of all processes.

The environment variable ACT is a key of ``ACTS``, the function that runs before step 5.
"""

import functools
import os
import signal
import time

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fedjax_norm.cli import app
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.methods import FEDAVG_CONFIG
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement import processes

STEPS = 400


def note(name: str, value: float) -> None:
  """Writes a value for the test to a file, because only process 0 prints."""
  with open(f"notes{jax.process_index()}", "a") as file:
    print(name, value, file=file)


def refuse() -> None:
  raise UserError("a file is missing here; put it there.")


def kill(pid: int, number: signal.Signals) -> None:
  os.kill(pid, number)
  time.sleep(60)  # the signal arrives during the wait


ACTS = {
  "well": lambda: None,
  "refuse": refuse,
  "kill": lambda: kill(os.getpid(), signal.SIGKILL),
  "kill_parent": lambda: kill(os.getppid(), signal.SIGKILL),
  "term_parent": lambda: kill(os.getppid(), signal.SIGTERM),
}


def main(config: Config) -> None:
  """Prints the sums of step + device over all devices."""
  act = os.environ["ACT"]
  os.write(2, b"noise of the runtime\n")
  os.write(1, b"chatter of the runtime\n")
  logging.warning("a warning")
  note("child", os.getpid())
  mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))

  def device_sum(step):
    return jax.lax.psum(step + jax.lax.axis_index("all"), "all")

  total = jax.jit(jax.shard_map(device_sum, mesh=mesh, in_specs=P(), out_specs=P()))
  for step in range(STEPS if "LONG" in os.environ else 8):
    if step == 5:
      note("acts at", time.time())
      ACTS[act]()
    print("sum", int(total(jnp.int32(step))))
    time.sleep(0.02)


if __name__ == "__main__":
  processes.join = functools.partial(
    processes.join,
    initialization_seconds=int(os.environ["INITIALIZATION"]),
    heartbeat_seconds=int(os.environ["HEARTBEAT"]),
  )
  app.run(main, FEDAVG_CONFIG, __doc__)
