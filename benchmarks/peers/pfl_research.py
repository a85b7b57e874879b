"""pfl-research's simulation of federated averaging, in PyTorch.

Variants: ``threads`` is one process with all cores; ``processes`` is one process per core, as pfl's
guide to distributed simulations recommends.
"""

import functools
import itertools
import os
import socket
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import job as jobs
from benchmarks.peers import torch_models
from benchmarks.peers.job import Job, Result

_RANK, _ADDRESSES = "PFL_WORKER_RANK", "PFL_WORKER_ADDRESSES"


class Classifier(nn.Module):
  """A network with the two methods that pfl requires."""

  def __init__(self, network: nn.Module):
    super().__init__()
    self.network = network

  def loss(self, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the training loss of a batch."""
    return functional.cross_entropy(self.network(images), labels)

  @torch.no_grad()
  def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Returns the evaluation metrics of a batch."""
    from pfl.metrics import Weighted

    self.eval()
    loss = self.loss(images, labels).item()
    self.train()
    return {"loss": Weighted(loss * len(labels), len(labels))}


def measure(job: Job) -> Result:
  """Measures pfl; its import joins the processes, so the environment must be set before."""
  processes = job.threads if job.variant == "processes" else 1
  if processes > 1 and _RANK not in os.environ:
    _launch_others(processes)
  torch.set_num_threads(job.threads // processes)
  torch.manual_seed(job.seed)

  from pfl.aggregate.simulate import SimulatedBackend
  from pfl.aggregate.weighting import WeightByDatapoints
  from pfl.algorithm.base import NNAlgorithmParams
  from pfl.algorithm.federated_averaging import FederatedAveraging
  from pfl.callback.base import TrainingProcessCallback
  from pfl.data.dataset import Dataset
  from pfl.data.federated_dataset import FederatedDataset
  from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
  from pfl.metrics import Metrics
  from pfl.model.pytorch import PyTorchModel

  images, image_shape = torch_models.load_images(job)
  clients = jobs.client_ids(job)
  labels = torch.from_numpy(jobs.array(job, "data/y_train")).long()

  def make_dataset(client: int) -> Dataset:
    ids = clients[client]
    return Dataset((torch_models.to_float(images[ids]), labels[ids]), user_id=str(client))

  cohorts = itertools.cycle(jobs.array(job, "cohorts").ravel().tolist())
  sizes = {client: len(ids) for client, ids in enumerate(clients)}
  # With the sizes, pfl divides unequal clients evenly over its processes.
  users = FederatedDataset(make_dataset, cohorts.__next__, None if job.local_steps else sizes)
  network = torch_models.build(job, image_shape, jobs.weights(job)).train()
  classifier = Classifier(network)
  model = PyTorchModel(
    classifier,
    functools.partial(torch.optim.SGD, momentum=job.momentum),
    torch.optim.SGD(classifier.parameters(), 1.0),
  )
  ends: list[float] = []

  class Clock(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
      ends.append(time.perf_counter())
      return False, Metrics()

  training = NNTrainHyperParams(
    local_batch_size=job.batch_size,
    local_num_epochs=None if job.local_steps else 1,
    local_num_steps=job.local_steps or None,
    local_learning_rate=job.rate,
  )
  begun = time.perf_counter()
  FederatedAveraging().run(
    NNAlgorithmParams(
      central_num_iterations=job.rounds,
      evaluation_frequency=job.rounds,  # the first round alone, which cannot be without
      train_cohort_size=job.cohort,
      val_cohort_size=None,
    ),
    SimulatedBackend(users, users, [WeightByDatapoints()]),
    model,
    training,
    NNEvalHyperParams(local_batch_size=None),
    callbacks=[Clock()],
    send_metrics_to_platform=False,  # which prints them all
  )
  result = jobs.result(job, begun, ends[job.rounds_per_sample - 1 :: job.rounds_per_sample])
  result.device = next(classifier.parameters()).device.type
  if processes > 1:
    result.peak_mb = None
  return result


def _launch_others(processes: int) -> None:
  """Starts the other processes for the same job; this process becomes the first."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  # Only the first address is listened at; the others say how many there are.
  os.environ[_ADDRESSES] = ",".join(f"localhost:{port + rank}" for rank in range(processes))
  command = [sys.executable, "-m", "benchmarks.peers.pfl_research", *sys.argv[1:]]
  for rank in range(1, processes):
    subprocess.Popen(
      command, env={**os.environ, _RANK: str(rank)}, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
  os.environ[_RANK] = "0"


if __name__ == "__main__":
  jobs.main(measure)
