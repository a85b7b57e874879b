"""Runs SSGD with distributed BN of 16 unequal workers on eight devices; one file per mapping."""

import sys
from pathlib import Path

import jax
import numpy as np
from conftest import TinyNet, make_tiny_source
from helpers.reference_fedavg import random_variables
from helpers.settings import built, configure, plain

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.local_training import Metrics
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.rounds import compile_interval

SPEC = norm.create("sync_bn")
BACKENDS = ("vmap", "pmap", "shard_map")
SHAPE = (6, 6, 1)
WORKERS, STEPS = 16, 5
SIZES = 1 + np.arange(WORKERS) * 5 % 7  # 1 to 7 examples, so that many batches of 4 are padded
CONFIG = configure(SsgdConfig, plain(batch_size=4, momentum=0.9, weight_decay=5e-3, clip_norm=1.0))


def run(backend: str) -> dict[str, np.ndarray]:
  """Returns the results of the steps by path, and the number of ``devices``."""
  source = make_tiny_source(int(SIZES.sum()))
  mapping = client_mapping.create(
    backend,
    num_clients=WORKERS,
    lockstep=True,
    chunk=0 if backend in ("pmap", "shard_map") else None,  # a vmap on each device
  )
  model = TinyNet(norm=SPEC)
  transform = make_transforms(Preprocess(augment="none"), source.train.images)[0]
  offsets = np.concatenate([[0], np.cumsum(SIZES)])
  data = federate(source.train, Partition(np.arange(offsets[-1]), offsets))
  algorithm = built(SSGD, CONFIG, model, mapping, data, transform, SHAPE)
  master = algorithm.init(random_variables(model, SHAPE))
  slots = np.tile(np.arange(WORKERS, dtype=np.int32), (STEPS, 1))
  rates = np.full(STEPS, 0.2, np.float32)
  bounds = np.int32(0), np.int32(0), np.int32(STEPS)
  thetas, key = np.zeros_like(rates), jax.random.key(0)
  worker = algorithm.init_client(master)
  arguments = (master, worker, Metrics.zeros(), slots, rates, thetas, *bounds, data, key)
  out = compile_interval(algorithm, mapping)(*map(placer(mapping), arguments))
  leaves = {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(out)
  }
  return {**leaves, "devices": np.array(mapping.num_devices)}


if __name__ == "__main__":
  client_mapping.use_host_devices(8)
  for name in BACKENDS:
    np.savez(Path(sys.argv[1]) / f"{name}.npz", **run(name))
