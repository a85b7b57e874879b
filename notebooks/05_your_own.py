# %% [markdown]
# # Your own data, model and algorithm
#
# Each part of a run can be yours, and the others stay as they are:
#
# 1. data: a folder with a folder per client, or arrays;
# 2. a model: any flax module, with or without the library's norms;
# 3. an algorithm: two pure functions;
# 4. a loss and an optimizer.
#
# It runs in less than three minutes on two CPU cores. The environment variable `FEDJAX_NORM_REDUCED=1` selects a short version.

# %%
import os

import fedjax_norm as fn

# Before anything uses JAX: on a CPU, clients train in parallel on single-threaded devices.
fn.use_host_devices(min(os.cpu_count() or 1, 3))

FULL = os.environ.get("FEDJAX_NORM_REDUCED") != "1"
LENGTH = {"rounds": 60, "eval_every": 10} if FULL else {"rounds": 4, "eval_every": 2}

# %%
# %matplotlib inline

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from IPython.display import display
from PIL import Image

from fedjax_norm.plots.clients import partition_figure
from fedjax_norm.plots.curves import compare_figure
from fedjax_norm.training.terminal.tables import columns_table, human_bytes

# %% [markdown]
# ## 1. Your data
#
# ### A folder
#
# Put images into `CLIENT/CLASS/`. To have such a folder, we write scikit-learn's digits as if three clinics had collected them: `north` has the digits 0 to 4, `south` 3 to 7, and `west` 6 to 9 and 0. Images whose names, sizes or formats do not fit are named in one sentence when you load the folder.

# %%
digits = fn.load_source("digits")
CLINICS = {"north": (0, 1, 2, 3, 4), "south": (3, 4, 5, 6, 7), "west": (6, 7, 8, 9, 0)}
folder = Path(tempfile.mkdtemp()) / "clinics"
for label in range(10):
  owners = [clinic for clinic, classes in CLINICS.items() if label in classes]
  for i, index in enumerate(np.flatnonzero(digits.train.labels == label)):
    path = folder / owners[i % len(owners)] / str(label) / f"{index}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = digits.train.images[index, ..., 0]
    Image.fromarray(np.uint8(255 * pixels / digits.train.images.max())).save(path)

source = fn.load_source(f"folder:{folder}")
clinics = fn.make_partition("natural", source.train.labels, None, 0, clients=source.train.clients)
counts = fn.data.partitions.registry.counts(clinics, source.train.labels, len(source.class_names))
names = source.client_names
display(partition_figure(counts, source.class_names, "Three clinics", client_names=names))

# %% [markdown]
# A fifth of the images was held out for the test, at random. (Folders `train` and `test` above the clients would fix it.) Train on this federation with batch normalization and with group normalization, and test each clinic on its own test images:

# %%
outcomes = {}
for norm in ("bn", "gn"):
  task = fn.make_task(source, clinics, fn.make_norm(norm))
  outcomes[norm] = fn.run("fedavg", task, local_steps=5, evaluate_clients=3, **LENGTH)
display(compare_figure({n: o.rows for n, o in outcomes.items()}, "Three clinics"))
own = {norm: outcome.client_accuracies for norm, outcome in outcomes.items()}
print(
  columns_table(
    ["accuracy on own test images", *names],
    [[norm, *(f"{own[norm][k]:.1%}" for k in range(3))] for norm in own],
  )
)

# %% [markdown]
# On the command line the same is `python -m experiments.fedavg --data=folder:clinics --norm=gn --local_steps=5 --evaluate_clients=3`, and `python -m experiments.study --data=folder:clinics` compares norms and algorithms.
#
# ### Arrays
#
# If your data is in memory, pass four arrays (train images and labels, test images and labels) and the client of each training example. Images are `[N, H, W, C]`, as `uint8` from 0 to 255 or as floats.

# %%
arrays = (digits.train.images, digits.train.labels, digits.test.images, digits.test.labels)
owners = digits.train.labels % 3  # any rule: here client 0 has the digits 0, 3, 6 and 9
task = fn.make_task(arrays, owners, fn.make_norm("gn"))
print("examples of each client:", task.data.sizes)

# %% [markdown]
# ## 2. Your model
#
# A flax module works as it is. With a field `norm` and an argument `mode` it also works with every norm of the library: put `Norm(self.norm)` where you would put `nn.BatchNorm`.

# %%
from fedjax_norm.norm import Norm


class Net(nn.Module):
  """Two convolutions with a norm each, a mean over positions, and a dense layer."""

  norm: fn.NormSpec

  @nn.compact
  def __call__(self, x, mode):
    """Maps images [N, H, W, C] to logits [N, 10]."""
    for features in (16, 32):
      x = nn.Conv(features, (3, 3), use_bias=False)(x)
      x = nn.relu(Norm(self.norm)(x, mode))
    return nn.Dense(10)(x.mean((1, 2)))


nets = {}
for norm, spec in {"bn": fn.make_norm("bn"), "gn": fn.make_norm("gn", groups=8)}.items():
  task = fn.make_task(source, clinics, spec, model=Net(spec))
  nets[norm] = fn.run("fedavg", task, local_steps=5, lr=0.2, **LENGTH)
  print(
    norm, f"{nets[norm].rows[-1]['top1']:.1%}", human_bytes(nets[norm].rows[-1]["bytes_up"]), "up"
  )

# %% [markdown]
# ## 3. Your algorithm
#
# Most algorithms are two functions: what a client does with the model that it downloads, and what the server does with the mean of the uploads. The rest (mapping the clients over devices, weights, batch statistics, checkpoints, bytes, simulated time) is shared.
#
# As an example, clients send only the *signs* of their changes, as one byte per weight instead of four, and one number per tensor: the mean size of the change. (Bernstein et al., *signSGD*, 2018, send signs of gradients.)

# %%
import dataclasses
from typing import NamedTuple

from fedjax_norm.algorithms.averaging_config import AveragingConfig
from fedjax_norm.options import option


@dataclasses.dataclass(frozen=True)
class SignConfig(AveragingConfig):
  """Options of sign averaging."""

  sign_lr: float = option(1.0, "Learning rate of the server.", above=0)


class ServerState(NamedTuple):
  """The server's state: the global model."""

  variables: dict


def sign_averaging(config, setup):
  """FedAvg whose clients send the signs of their changes, and the mean size per tensor."""

  def client(server, client_state, examples, context):
    trained = context.train(server.variables, examples, config.steps(examples.size))
    change = optax.tree.sub(trained.variables["params"], server.variables["params"])
    upload = {
      "signs": jax.tree.map(lambda d: jnp.sign(d).astype(jnp.int8), change),
      "sizes": jax.tree.map(lambda d: jnp.abs(d).mean(), change),
    }
    return fn.Update(upload, config.weight(examples, trained), trained)

  def server(server, mean, context):
    def moved(weights, sign, size):
      return weights + config.sign_lr * size * sign

    params = jax.tree.map(moved, server.variables["params"], mean["signs"], mean["sizes"])
    return ServerState({**server.variables, "params": params})

  return fn.Averaging(init=ServerState, client=client, server=server)


SIGN = fn.Method("sign_averaging", SignConfig, sign_averaging, "FedAvg of signs of changes.")

task = fn.make_task(source, clinics, fn.make_norm("gn"))
signs = {
  "fedavg": outcomes["gn"],
  "sign averaging": fn.run(SIGN, task, local_steps=5, sign_lr=1.0, **LENGTH),
}
print(
  columns_table(
    ["algorithm", "top-1", "up", "down"],
    [
      [
        name,
        f"{rows[-1]['top1']:.1%}",
        human_bytes(rows[-1]["bytes_up"]),
        human_bytes(rows[-1]["bytes_down"]),
      ]
      for name, rows in ((name, outcome.rows) for name, outcome in signs.items())
    ],
  )
)

# %% [markdown]
# The ledger counts what the functions return: a quarter of the bytes up, because the signs are `int8`. Nothing was declared. (After equally many rounds it is 12 points behind; a study would say whether it is worth it at equal bytes.) A row in `fedjax_norm/algorithms/registry.py` would also make it `python -m experiments.run --method=sign_averaging` and put it under the tests that every algorithm must pass; CONTRIBUTING.md has a worked example.
#
# ## 4. Your loss and optimizer
#
# An `Objective` is a loss per example, and optionally what counts as correct. Optimizers are optax transformations; that of the clients comes without its rate, because the run's schedule sets the rate.


# %%
def smoothed(logits, labels):
  """Cross-entropy with label smoothing 0.1: [N]."""
  targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), 0.1)
  return optax.softmax_cross_entropy(logits, targets)


def correct(logits, labels):
  """Whether the largest logit is the label's: [N]."""
  return logits.argmax(-1) == labels


task = fn.make_task(source, clinics, fn.make_norm("gn"), objective=fn.Objective(smoothed, correct))
config = fn.FedAvgConfig(optimizer=optax.scale_by_adam(), local_steps=5)
outcome = fn.run("fedavg", task, config, lr=2e-3, **LENGTH)
print(f"label smoothing and Adam on the clients: {outcome.rows[-1]['top1']:.1%}")
