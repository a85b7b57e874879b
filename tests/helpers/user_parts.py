"""A user-defined module and partition, and runs with them."""

import numpy as np
from flax import linen as nn

import fedjax_norm as fn

CLIENTS = np.arange(60) % 3
LOCAL = fn.LocalConfig(batch_size=8)
LOOP = fn.LoopConfig(4, 2)


class Plain(nn.Module):
  """A plain flax module with dropout and an argument ``train``."""

  classes: int = 4

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.LayerNorm()(nn.Dense(16)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.classes)(x)


def run(task, *groups, **options):
  return fn.run("fedavg", task, LOCAL, LOOP, *groups, **{"lr": 0.05, **options})
