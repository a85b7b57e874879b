"""The setting of NIID-Bench, trained here and by a plain loop in PyTorch."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from helpers.paper_tables import by_label
from torch import nn

from fedjax_norm.cli import train
from fedjax_norm.data.federated import draw
from fedjax_norm.training import loop
from fedjax_norm.training.run import initial_variables

ROUNDS, EPOCHS, BATCH = 2, 2, 8


def network(params):
  """NIID-Bench's network for images of 16 pixels, with our parameters."""
  net = nn.Sequential(
    nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(16, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 3),
  )  # fmt: skip
  layers = [layer for layer in net if hasattr(layer, "weight")]
  with torch.no_grad():
    for layer, name in zip(layers, params, strict=True):
      kernel, bias = (np.array(params[name][kind]) for kind in ("kernel", "bias"))
      layer.weight.copy_(
        torch.tensor(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T)
      )
      layer.bias.copy_(torch.tensor(bias))
  return net


def batches(task, seed, client, first):
  """The (images, labels) of a client's local steps in one round."""
  data, size = jax.tree.map(jnp.asarray, task.data), int(task.data.sizes[client])

  def one(step):
    return draw(
      data, jnp.int32(client), step, BATCH, lambda images, *_: images, jax.random.key(seed)
    )

  steps = first + jnp.arange(EPOCHS * -(-size // BATCH))
  for images, labels, mask in zip(*map(np.asarray, jax.jit(jax.vmap(one))(steps)), strict=True):
    real = mask > 0
    yield torch.tensor(images[real]).permute(0, 3, 1, 2), torch.tensor(labels[real]).long()


def test_two_rounds_equal_a_plain_loop_in_pytorch():
  """Momentum starts anew, the last batch is smaller, and clients weigh by their examples."""
  config = by_label("niid_bench.cifar10")["FedAvg, Dirichlet 0.5"].config(
    "full", data="synthetic:classes=3,train=37,test=6,size=16", clients=2, local_epochs=EPOCHS,
    rounds=ROUNDS, eval_every=ROUNDS, batch_size=BATCH, augment="none", crop_padding=None,
    min_size=5, lr=0.1, weight_decay=0.01, progress=False,
  )  # fmt: skip
  config, task = train.prepare(config, train.load(config))
  start = initial_variables(task, config.seed)
  outcome = loop.train(train.make(task, config), config, task.data, start)
  sizes = np.asarray(task.data.sizes)
  assert len(set(sizes)) == 2
  assert any(size % BATCH for size in sizes)

  net = network(start["params"])
  for round_ in range(ROUNDS):
    models = []
    for client, size in enumerate(sizes):
      model = copy.deepcopy(net)
      sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
      for images, labels in batches(task, config.seed, client, round_ * EPOCHS * -(-size // BATCH)):
        sgd.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        sgd.step()
      models.append(model.state_dict())
    weights = sizes / sizes.sum()
    mean = {
      name: sum(float(w) * model[name] for w, model in zip(weights, models, strict=True))
      for name in models[0]
    }
    net.load_state_dict(mean)

  expected = network(outcome.variables["params"]).state_dict()
  before = network(start["params"]).state_dict()
  for name, value in net.state_dict().items():
    assert float((expected[name] - before[name]).abs().max()) > 1e-3, name
    torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
