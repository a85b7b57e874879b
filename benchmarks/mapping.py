"""Measures how to map clients on this machine's cores: ``python -m benchmarks.mapping``.

It times one local step of ten clients, sequentially and in parallel, on one device with all cores
and on single-threaded host devices. The rules of ``client_mapping.create`` rest on.
"""

import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from fedjax_norm import client_mapping, models, norm
from fedjax_norm.local_training import LocalConfig, make_client_update, optimizer
from fedjax_norm.typing import Batch

_CLIENTS, _SAMPLES = 10, 9
# (model, image shape, batch size, local steps per sample)
_CASES = (
  ("tiny", (8, 8, 1), 32, 40),
  ("cnn", (32, 32, 3), 10, 10),
  ("resnet20", (32, 32, 3), 32, 2),
)


def sample(
  model_name: str, shape: tuple[int, int, int], batch_size: int, steps: int, chunk: int
) -> float:
  """Returns the median time of a local step of all clients, in milliseconds."""
  model = models.create(model_name, norm.create("gn", groups=8), 10, shape)
  variables = models.init(model, jax.random.key(0), shape)
  config = LocalConfig(batch_size=batch_size, momentum=0.9, weight_decay=0.0)
  update, transform = make_client_update(model, config), optimizer(config)
  several = len(jax.devices()) > 1
  mapping = client_mapping.create(
    "shard_map" if several else "vmap", num_clients=_CLIENTS, chunk=chunk
  )

  def node(variables, item):
    batch = Batch(*item, jnp.ones(batch_size))
    out = update(
      variables,
      transform.init(variables["params"]),
      lambda step: batch,
      jnp.int32(0),
      jnp.int32(steps),
      jnp.float32(0.01),
      jax.random.key(0),
    )
    return out.variables, ()

  rng = np.random.default_rng(0)
  images = rng.standard_normal((_CLIENTS, batch_size, *shape), np.float32)
  labels = rng.integers(0, 10, (_CLIENTS, batch_size), np.int32)
  run = jax.jit(
    lambda variables, items: mapping.map_reduce(node, variables, items)[0],
    out_shardings=mapping.sharding,
  )
  args = variables, (images, labels)
  args = jax.tree.map(jnp.asarray, args) if not several else jax.device_put(args, mapping.sharding)
  jax.block_until_ready(run(*args))
  seconds = []
  for _ in range(_SAMPLES):
    begun = time.perf_counter()
    jax.block_until_ready(run(*args))
    seconds.append((time.perf_counter() - begun) / steps)
  return 1e3 * float(np.median(seconds))


def main() -> None:
  """Prints a table; each column is measured in a separate process."""
  if len(sys.argv) == 3:
    devices, chunk = map(int, sys.argv[1:])
    client_mapping.use_host_devices(devices)
    print(json.dumps([sample(*case, chunk) for case in _CASES]))
    return
  cores = len(os.sched_getaffinity(0))
  columns = {}
  for devices in sorted({1, cores}):
    for chunk, how in ((1, "one after another"), (0, "all at once")):
      command = [sys.executable, "-m", "benchmarks.mapping", str(devices), str(chunk)]
      done = subprocess.run(
        command,
        cwd=measure.ROOT,
        env=measure.environment_variables(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
      )
      columns[f"{devices} device{'s' * (devices > 1)}, {how}"] = json.loads(done.stdout)
  print(f"| ms a step of {_CLIENTS} clients | {' | '.join(columns)} |")
  print("| --- " * (len(columns) + 1) + "|")
  for row, (name, *_) in enumerate(_CASES):
    print(f"| {name} | " + " | ".join(f"{times[row]:.3g}" for times in columns.values()) + " |")


if __name__ == "__main__":
  main()
