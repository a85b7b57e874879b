"""FedAvg with one local step against SGD on the joint batch, and against PyTorch."""

import helpers.reference_fedavg as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from helpers.fedavg_world import ALL, FOUR, KEY, RATES, SIZES, local, random_variables
from helpers.reference_fedavg import close, distance, flat
from helpers.settings import configure

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.fedavg import FedAvgConfig


def centralised(model, data, transform, config, cohorts, rates):
  """Returns (params, batch_stats) of SGD on the joint batch of each round's clients."""
  batch = reference.batch_drawer(data, config.batch_size, transform, KEY)
  variables = random_variables(model)
  w, stats = flat(variables["params"]), flat(variables.get("batch_stats", {}))
  zeros = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  for step, (cohort, rate) in enumerate(zip(cohorts, rates, strict=True)):
    joint = jax.tree.map(lambda *a: jnp.concatenate(a), *(batch(k, step) for k in cohort))
    grads, stats = reference.batch_gradient(model, w, stats, joint, step)
    w, _ = reference.sgd_step(config, w, zeros, grads, w, rate)
  return w, stats


ONE_STEP = configure(FedAvgConfig, local(weight_decay=5e-3), local_steps=1, weighting="processed")


@pytest.mark.parametrize("name", ["gn", "ln", "in", "cn", "none", "wn", "fixup", "frozen", "bn"])
def test_one_local_step_is_centralised_sgd_unless_the_norm_is_bn(world, name):
  fast = world.fast(name, ONE_STEP)
  server, _, _ = fast.run(ALL)
  params, _ = centralised(fast.model, fast.data, fast.transform, ONE_STEP, ALL, RATES)
  if name == "bn":
    assert distance(server.variables["params"], params) > 1e-3
  else:
    close(server.variables["params"], params)
    assert distance(server.variables["params"], random_variables(fast.model)["params"]) > 1e-2


# Three clients cannot be divided evenly over two devices.
@pytest.mark.parametrize(
  ("backend", "clients"), [("vmap", 3), ("shard_map", 4), ("shard_map", 3), ("pmap", 4)]
)
def test_sync_bn_in_lockstep_is_centralised_bn(world, backend, clients):
  # The clients with 5 and 9 examples have padded batches in the second and third round.
  cohorts = [[2, 0, 1, 3], [3, 1, 0, 2], [0, 2, 1, 3]]
  cohorts = [cohort[:clients] for cohort in cohorts]
  mapping = client_mapping.create(backend, num_clients=clients, lockstep=True)
  fast = world.fast("sync_bn", ONE_STEP, mapping)
  server, _, _ = fast.run(cohorts)
  params, stats = centralised(
    world.model("bn"), fast.data, fast.transform, ONE_STEP, cohorts, RATES
  )
  close(server.variables["params"], params)
  close(server.variables["batch_stats"], stats)


@jax.jit
def joint_gradients(params, batches):
  """Computes synchronized BN by hand on the small network, with parameters for each client.

  Returns:
    (gradient of all clients' losses for each client's parameters, divided by the client's examples;
    (mean, unbiased variance) of the joint batch).
  """
  masks = [b.mask[:, None, None, None] for b in batches]
  count = 36 * sum(m.sum() for m in masks)

  def joint_loss(params):
    hidden = [
      jax.lax.conv_general_dilated(
        b.images, p["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      for p, b in zip(params, batches, strict=True)
    ]
    axes = (0, 1, 2)
    mean = sum((h * m).sum(axes) for h, m in zip(hidden, masks, strict=True)) / count
    m2 = sum(((h - mean) ** 2 * m).sum(axes) for h, m in zip(hidden, masks, strict=True))
    loss = 0.0
    for p, h, b in zip(params, hidden, batches, strict=True):
      y = (h - mean) / jnp.sqrt(m2 / count + 1e-5) * p["Norm_0"]["scale"] + p["Norm_0"]["bias"]
      logits = jax.nn.relu(y).mean((1, 2)) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, b.labels)
      loss += (losses * b.mask).sum()
    return loss, (mean, m2 / (count - 1))

  grads, moments = jax.grad(joint_loss, has_aux=True)(params)
  gradients = [optax.tree.scale(1 / b.mask.sum(), g) for g, b in zip(grads, batches, strict=True)]
  return gradients, moments


def test_sync_bn_with_clients_that_finish_early(world):
  # Client 0 takes two steps and client 1 three: the last batch of client 1 is normalized alone.
  config = configure(FedAvgConfig, FOUR, local_epochs=1, weighting="processed")
  mapping = client_mapping.create("shard_map", num_clients=2, lockstep=True)
  fast = world.fast("sync_bn", config, mapping, sizes=(5, 9))
  server, _, metrics = fast.run([[0, 1]], [0.2])
  batch = reference.batch_drawer(fast.data, 4, fast.transform, KEY)
  variables = random_variables(fast.model)
  params = [variables["params"]] * 2
  stats = [flat(variables["batch_stats"])] * 2
  for step in range(3):
    present = [k for k in (0, 1) if step < (2, 3)[k]]
    grads, (mean, var) = joint_gradients(
      [params[k] for k in present], [batch(k, step) for k in present]
    )
    for k, g in zip(present, grads, strict=True):
      params[k] = jax.tree.map(lambda w, d: w - 0.2 * d, params[k], g)
      new = {"Norm_0/mean": mean, "Norm_0/var": var}
      stats[k] = {path: 0.9 * old + 0.1 * np.asarray(new[path]) for path, old in stats[k].items()}
  close(server.variables["params"], reference.weighted_mean([flat(p) for p in params], (5, 9)))
  close(server.variables["batch_stats"], reference.weighted_mean(stats, (5, 9)))
  assert metrics.examples == 14


class TorchTiny(torch.nn.Module):
  """The small network at stride 2 in PyTorch, with the variables of the library."""

  def __init__(self, variables):
    super().__init__()
    self.conv = torch.nn.Conv2d(1, 8, 3, stride=2, bias=False)
    self.bn = torch.nn.BatchNorm2d(8)
    self.dense = torch.nn.Linear(8, 4)
    params, stats = variables["params"], variables["batch_stats"]["Norm_0"]
    with torch.no_grad():
      for mine, theirs in (
        (self.conv.weight, params["Conv_0"]["kernel"].transpose(3, 2, 0, 1)),
        (self.bn.weight, params["Norm_0"]["scale"]),
        (self.bn.bias, params["Norm_0"]["bias"]),
        (self.bn.running_mean, stats["mean"]),
        (self.bn.running_var, stats["var"]),
        (self.dense.weight, params["Dense_0"]["kernel"].T),
        (self.dense.bias, params["Dense_0"]["bias"]),
      ):
        mine.copy_(torch.tensor(np.ascontiguousarray(theirs)))

  def forward(self, x):
    # SAME at stride 2 on an image of even size pads only after the last row and column.
    x = self.conv(torch.nn.functional.pad(x, (0, 1, 0, 1)))
    return self.dense(torch.relu(self.bn(x)).mean((2, 3)))

  def variables(self):
    state = {name: value.detach().numpy() for name, value in self.state_dict().items()}
    return {
      "params": {
        "Conv_0": {"kernel": state["conv.weight"].transpose(2, 3, 1, 0)},
        "Norm_0": {"scale": state["bn.weight"], "bias": state["bn.bias"]},
        "Dense_0": {"kernel": state["dense.weight"].T, "bias": state["dense.bias"]},
      },
      "batch_stats": {"Norm_0": {"mean": state["bn.running_mean"], "var": state["bn.running_var"]}},
    }


def test_three_rounds_of_local_bn_equal_pytorch(world):
  config = configure(
    FedAvgConfig, local(momentum=0.9, weight_decay=5e-4), local_steps=1, client_momentum="local"
  )
  fast = world.fast("bn", config, stride=2)
  server, _, metrics = fast.run(ALL, [0.3] * 3)
  batch = reference.batch_drawer(fast.data, 4, fast.transform, KEY)
  variables, buffers, losses = random_variables(fast.model), {}, 0.0
  for step in range(3):
    trained = []
    for k in range(len(SIZES)):
      net = TorchTiny(variables).train()
      optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-4)
      if k in buffers:
        optimizer.load_state_dict(buffers[k])
      b = jax.tree.map(np.asarray, batch(k, step))
      real = b.mask > 0
      images = torch.tensor(b.images[real].transpose(0, 3, 1, 2))
      loss = torch.nn.functional.cross_entropy(net(images), torch.tensor(b.labels[real]).long())
      loss.backward()
      optimizer.step()
      buffers[k] = optimizer.state_dict()
      trained.append(flat(net.variables()))
      losses += loss.item() * real.sum()
    variables = reference.nested(reference.weighted_mean(trained, SIZES))
  close(server.variables, variables)
  np.testing.assert_allclose(metrics.loss, losses, rtol=1e-5)
