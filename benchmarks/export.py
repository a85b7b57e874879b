"""Writes the arrays that every system reads: data, partition, initial weights, order of batches.

``python -m benchmarks.export WORKLOAD FOLDER [DATA_DIR]`` writes the arrays of a workload, given as
JSON, in a separate process, so that the measuring process never starts JAX.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.peers.job import Job
from benchmarks.workloads import Data, Workload
from fedjax_norm import client_mapping
from fedjax_norm.data.cohorts import cohorts
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.partitions.registry import make as make_partition
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.norm import create as make_norm
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import Task, make_task

# Enough for the evaluations at the ends of the library's intervals.
_TEST_IMAGES = 10


def make_source(data: Data, clients: int, data_dir: str | None) -> Source:
  """Returns the images of a workload: real ones if available, as speed does not depend on it.

  Args:
    data: name and shape of the data.
    clients: number of clients.
    data_dir: folder of prepared TFDS data sets, for CIFAR-10.
  """
  count = clients * data.examples
  if data.name == "digits" or (data.name == "cifar10" and data_dir):
    source = sources.load(data.name, data_dir)
    train, test = source.train, source.test
    train = Examples(train.images[:count], train.labels[:count])
    test = Examples(test.images[:_TEST_IMAGES], test.labels[:_TEST_IMAGES])
  else:
    rng = np.random.default_rng(0)

    def examples(number: int) -> Examples:
      images = rng.integers(0, 256, (number, *data.image_shape), np.uint8)
      return Examples(images, rng.integers(0, 10, number, np.int32))

    train, test = examples(count), examples(_TEST_IMAGES)
  return Source(data.name, train, test, tuple(map(str, range(10))))


def make_benchmark_task(
  source: Source, partition: Partition, model: str, groups: int, dtype: str = "float32"
) -> Task:
  """Returns the common task of all systems: images from 0 to 1, group normalization or no norm."""
  norm = make_norm("gn", groups=groups) if groups else make_norm("none")
  preprocess = Preprocess(standardise=False, compute_dtype=dtype)
  return make_task(source, partition, norm, model, preprocess=preprocess)


def batch_ids(data: FederatedData, job: Job) -> tuple[np.ndarray, np.ndarray]:
  """Returns the clients and examples that the library draws.

  Returns:
    ([rounds, cohort] client ids, [rounds, cohort, steps, batch] example ids). Where a client has
    fewer steps than the one with the most, or fewer examples than a batch, the ids are -1.
  """
  key = jax.random.key(job.seed)
  most = int(np.max(job.steps(data.sizes)))
  # Only the ids are needed, not the images.
  data = data._replace(images=np.zeros((len(data.labels), 1, 1, 1), np.uint8))

  def ids_of(images, ids, strength, noise_key, step_key):
    return ids

  @jax.jit
  def ids(data):
    chosen = cohorts(key, jnp.int32(0), job.rounds, data.num_clients, job.cohort)

    def one(round_, client, step):
      steps = job.steps(data.sizes[client])
      batch = draw(data, client, round_ * steps + step, job.batch_size, ids_of, key)
      return jnp.where((step < steps) & (batch.mask > 0), batch.images, -1)

    over_steps = jax.vmap(one, (None, None, 0))
    over_clients = jax.vmap(over_steps, (None, 0, None))
    over_rounds = jax.vmap(over_clients, (0, 0, None))
    return chosen, over_rounds(jnp.arange(job.rounds), chosen, jnp.arange(most))

  chosen, drawn = ids(data)
  return np.asarray(chosen), np.asarray(drawn)


def export(workload: Workload, folder: Path, data_dir: str | None = None) -> None:
  """Writes a workload's arrays.

  ``data/``: the source in the format of ``npy:``. ``order``, ``offsets``: the partition.
  ``cohorts``, ``batches``: see :func:`batch_ids`. ``weights.npz``: the initial parameters by
  path.

  Args:
    workload: the workload.
    folder: existing folder for the arrays.
    data_dir: folder of prepared TFDS data sets.
  """
  source = make_source(workload.data, workload.clients, data_dir)
  sizes = {"alpha": workload.alpha} if workload.alpha else {}
  division = "quantity" if workload.alpha else "iid"
  partition = make_partition(division, source.train.labels, workload.clients, seed=0, **sizes)
  task = make_benchmark_task(source, partition, workload.model, workload.groups)
  job = workload.job(str(folder), threads=1)
  chosen, drawn = batch_ids(task.data, job)
  arrays = {
    "data/x_train": source.train.images,
    "data/y_train": source.train.labels,
    "data/x_test": source.test.images,
    "data/y_test": source.test.labels,
    "data/class_names": np.array(source.class_names),
    "order": partition.order,
    "offsets": partition.offsets,
    "cohorts": chosen,
    "batches": drawn,
  }
  (folder / "data").mkdir()
  for name, values in arrays.items():
    np.save(folder / f"{name}.npy", values)
  variables = initial_variables(task, job.seed)
  np.savez(folder / "weights.npz", **flatten_dict(variables["params"], sep="/"))


def main() -> None:
  """Writes the arrays of the workload on the command line."""
  client_mapping.use_host_devices(1)
  fields = json.loads(sys.argv[1])
  workload = Workload(**{**fields, "data": Data(*fields["data"])})
  export(workload, Path(sys.argv[2]), *sys.argv[3:])


if __name__ == "__main__":
  main()
