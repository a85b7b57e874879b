"""The work of Flower's clients, in a module that its worker processes can import."""

import functools
import itertools

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers import job as jobs
from benchmarks.peers import torch_models
from benchmarks.peers.job import Job

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def _loaded(job: Job):
  """Reads the arrays of a job, once per process."""
  images, image_shape = torch_models.load_images(job)
  labels = torch.from_numpy(jobs.array(job, "data/y_train")).long()
  return images, image_shape, labels, jobs.client_ids(job)


def network(job: Job) -> torch.nn.Module:
  """Returns the model; its parameters come with the server's message."""
  return torch_models.network(job, _loaded(job)[1])


def load(job: Job, client: int) -> DataLoader:
  """Returns the batches of a client."""
  images, _, labels, clients = _loaded(job)
  ids = clients[client]
  data = TensorDataset(torch_models.to_float(images[ids]), labels[ids])
  return DataLoader(data, job.batch_size, shuffle=True)


def train(job: Job, model: torch.nn.Module, batches: DataLoader) -> float:
  """Takes the local steps of a round and returns their mean loss."""
  model.train()
  optimizer = torch.optim.SGD(model.parameters(), job.rate, job.momentum)
  total = 0.0
  for images, labels in itertools.islice(itertools.cycle(batches), job.local_steps):
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
    loss.backward()
    optimizer.step()
    total += loss.item()
  return total / job.local_steps
