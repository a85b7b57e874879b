"""The library itself, as its users call it.

The variants ``device`` and ``host`` say where the training data is (on the host: memory-mapped);
with the others the library chooses. ``measure.py`` keeps the compiled programs of ``first_start``
for ``second_start``.
"""

import time

import jax
from flax.traverse_util import unflatten_dict

import fedjax_norm as fn
from benchmarks.export import make_benchmark_task
from benchmarks.peers import job as jobs
from benchmarks.peers.jax_compile import CompileClock
from benchmarks.peers.job import Job, Result
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.training.loop import train


def measure(job: Job) -> Result:
  """Measures the training loop by its rows: each is an interval and an evaluation of ten images."""
  return run(job)[1]


def run(job: Job) -> tuple[fn.Outcome, Result]:
  """Trains as the job says and measures the time."""
  clock = CompileClock()
  source = fn.load_source(f"npy:{job.folder}/data")
  partition = Partition(jobs.array(job, "order"), jobs.array(job, "offsets"))
  task = make_benchmark_task(source, partition, job.model, job.groups, job.dtype)
  config = fn.config_of(FEDAVG)(
    rounds=job.rounds,
    eval_every=job.rounds_per_sample,
    cohort=job.cohort or None,
    seed=job.seed,
    lr=job.rate,
    batch_size=job.batch_size,
    momentum=job.momentum,
    client_momentum="reset" if job.momentum else None,
    weight_decay=0.0,
    local_steps=job.local_steps or None,
    local_epochs=None if job.local_steps else 1,
    eval_batch_size=len(source.test.labels),
    data_on=job.variant if job.variant in ("device", "host") else "auto",
  )
  program = fn.make_program(FEDAVG, task, config)
  variables = {"params": unflatten_dict(jobs.weights(job), sep="/")}
  begun = time.perf_counter()
  outcome = train(program, config, task.data, variables)
  end = time.perf_counter()
  # What the loop does before its first round belongs to the first call.
  seconds = [row["seconds"] for row in outcome.rows]
  result = jobs.result(job, begun, [end - seconds[-1] + s for s in seconds])
  result.compile = clock.seconds(begun)
  result.first -= result.compile / job.rounds_per_sample
  result.losses = [row["train_loss"] for row in outcome.rows]
  result.device = jax.default_backend()
  result.detail = {"mapping": program.mapping.describe(), "data": program.data_on}
  return outcome, result


def main(job: Job) -> Result:
  """Sets the cores of JAX and measures."""
  fn.use_host_devices(max(1, min(job.threads, job.cohort)))
  return measure(job)


if __name__ == "__main__":
  jobs.main(main)
