"""A plain PyTorch loop over clients and batches, as a researcher writes it."""

import contextlib
import time

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers import job as jobs
from benchmarks.peers import torch_models
from benchmarks.peers.job import Job, Result


class Loop:
  """Federated averaging that follows the exported cohorts and batches.

  Attributes:
    losses: loss of each local step so far, averaged over the clients.
  """

  def __init__(self, job: Job, device: str = "cpu"):
    self.job, self.device = job, device
    self.images, image_shape = torch_models.load_images(job)
    self.labels = torch.from_numpy(jobs.array(job, "data/y_train")).long()
    self.batches = torch.from_numpy(jobs.array(job, "batches")).long()
    self.memory_format = (
      torch.channels_last if job.variant == "channels_last" else torch.contiguous_format
    )
    model = torch_models.build(job, image_shape, jobs.weights(job))
    model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
    self.model = model.to(device).train()
    self.server = [p.detach().clone() for p in self.model.parameters()]
    self.losses: list[Tensor] = []

  def run_round(self, round_: int) -> None:
    """Trains the clients of a round sequentially and averages their models."""
    total = [torch.zeros_like(p) for p in self.server]
    losses = []
    for batches in self.batches[round_]:
      losses.append(self._train_client(batches))
      for mean, own in zip(total, self.model.parameters(), strict=True):
        mean.add_(own.detach(), alpha=1 / self.job.cohort)  # the clients are equal in size
    self.server = total
    self.losses += torch.stack(losses).mean(0).unbind()

  def _train_client(self, batches: Tensor) -> Tensor:
    """Takes a client's local steps on the batches [steps, batch] and returns their losses."""
    job = self.job
    with torch.no_grad():
      for own, shared in zip(self.model.parameters(), self.server, strict=True):
        own.copy_(shared)
    optimizer = torch.optim.SGD(self.model.parameters(), job.rate, job.momentum)
    losses = []
    # A client's images are made ready once a round, as with a data set of its own.
    ids = batches.reshape(-1)
    images = torch_models.to_float(self.images[ids])
    images = images.to(self.device, memory_format=self.memory_format)
    labels = self.labels[ids].to(self.device)
    for x, y in zip(images.split(job.batch_size), labels.split(job.batch_size), strict=True):
      optimizer.zero_grad()
      with self._precision():
        loss = functional.cross_entropy(self.model(x), y)
      loss.backward()
      optimizer.step()
      losses.append(loss.detach())
    return torch.stack(losses)

  def _precision(self) -> contextlib.AbstractContextManager:
    if self.job.dtype == "bfloat16":
      return torch.autocast(self.device, torch.bfloat16)
    return contextlib.nullcontext()

  def wait(self) -> None:
    """Waits until the device has finished."""
    if self.device == "cuda":
      torch.cuda.synchronize()


def measure(job: Job) -> Result:
  """Measures the loop."""
  torch.set_num_threads(job.threads)
  torch.manual_seed(job.seed)
  loop = Loop(job, "cuda" if torch.cuda.is_available() else "cpu")

  begun, ends = time.perf_counter(), []
  for round_ in range(job.rounds):
    loop.run_round(round_)
    if (round_ + 1) % job.rounds_per_sample == 0:
      loop.wait()
      ends.append(time.perf_counter())
  result = jobs.result(job, begun, ends)
  result.device = loop.device
  steps = job.rounds_per_sample * job.local_steps
  result.losses = torch.stack(loop.losses).cpu().reshape(-1, steps).mean(1).tolist()
  return result


if __name__ == "__main__":
  jobs.main(measure)
