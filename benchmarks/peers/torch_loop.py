"""A plain PyTorch loop over clients and batches, as a researcher writes it.

Variants: ``nchw`` and ``channels_last`` are layouts; ``compiled``, for accelerators, is in channels
last with ``torch.compile`` and CUDA graphs, a fused optimizer and all images on the device.
"""

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
    losses: training loss of each round so far, the mean over its examples.
  """

  def __init__(self, job: Job, device: str = "cpu"):
    self.job, self.device = job, device
    self.compiled = job.variant == "compiled"
    self.images, image_shape = torch_models.load_images(job)
    self.labels = torch.from_numpy(jobs.array(job, "data/y_train")).long()
    self.batches = torch.from_numpy(jobs.array(job, "batches")).long()
    last = self.compiled or job.variant == "channels_last"
    self.memory_format = torch.channels_last if last else torch.contiguous_format
    model = torch_models.build(job, image_shape, jobs.weights(job))
    model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
    self.model = model.to(device).train()
    self.server = [p.detach().clone() for p in self.model.parameters()]
    self.losses: list[Tensor] = []
    self.loss = self._loss
    if self.compiled:
      torch.set_float32_matmul_precision("high")  # TF32, as JAX
      torch.backends.cudnn.benchmark = True
      self.images, self.labels = self.images.to(device), self.labels.to(device)
      self.loss = torch.compile(self._loss, mode="reduce-overhead")

  def run_round(self, round_: int) -> None:
    """Trains the clients of a round sequentially and averages their models."""
    total = [torch.zeros_like(p) for p in self.server]
    loss = torch.zeros((), device=self.device)
    cohort = [batches[batches >= 0] for batches in self.batches[round_]]
    examples = sum(map(len, cohort))
    for ids in cohort:
      loss += self._train_client(ids) / examples
      for mean, own in zip(total, self.model.parameters(), strict=True):
        mean.add_(own.detach(), alpha=len(ids) / examples)
    self.server = total
    self.losses.append(loss)

  def _train_client(self, ids: Tensor) -> Tensor:
    """Takes a client's local steps on these examples and returns the sum of their losses."""
    job = self.job
    with torch.no_grad():
      for own, shared in zip(self.model.parameters(), self.server, strict=True):
        own.copy_(shared)
    fused = True if self.compiled else None
    optimizer = torch.optim.SGD(self.model.parameters(), job.rate, job.momentum, fused=fused)
    total = torch.zeros((), device=self.device)
    # A client's images are made ready once a round, as with a data set of its own.
    images = torch_models.to_float(self.images[ids])
    images = images.to(self.device, memory_format=self.memory_format)
    labels = self.labels[ids].to(self.device)
    for x, y in zip(images.split(job.batch_size), labels.split(job.batch_size), strict=True):
      optimizer.zero_grad()
      loss = self.loss(x, y)
      loss.backward()
      optimizer.step()
      total += loss.detach() * len(y)
    return total

  def _loss(self, x: Tensor, y: Tensor) -> Tensor:
    with self._precision():
      return functional.cross_entropy(self.model(x), y)

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
  losses = torch.stack(loop.losses).cpu().reshape(-1, job.rounds_per_sample)
  result.losses = losses.mean(1).tolist()
  return result


if __name__ == "__main__":
  jobs.main(measure)
