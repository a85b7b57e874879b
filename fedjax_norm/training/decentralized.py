"""The algorithms of paper 004 as programs: BSP, Gaia, FedAvg and DGC, a round being a mini-batch.

Theta, which says how much they communicate, is data: no value of it compiles anything.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm import nodes
from fedjax_norm.algorithms.base import Algorithm
from fedjax_norm.algorithms.dgc import DgcConfig, dgc
from fedjax_norm.algorithms.gaia import GaiaConfig, gaia
from fedjax_norm.algorithms.periodic import PeriodicConfig, periodic
from fedjax_norm.comm import MOST_SENDERS
from fedjax_norm.control.dial import Dial
from fedjax_norm.errors import UserError
from fedjax_norm.training.assemble import assemble, clock_of, take_all
from fedjax_norm.training.loop_config import LoopConfig
from fedjax_norm.training.program import Program
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task import Task


def make_gaia(
  task: Task,
  config: GaiaConfig,
  loop: LoopConfig,
  schedule: Schedule,
  *,
  dial: Dial,
  network: str | None = None,
  **options: Any,
) -> Program:
  """Gaia on a task, its clients being the partitions.

  Args:
    task: the federation and the model.
    config: the algorithm.
    loop: the run's length, without a cohort.
    schedule: the partitions' learning rate.
    dial: of T_0; it follows the rate.
    network: the profile of a simulated clock (see ``clock.make``); None tells no simulated time.
    **options: of ``assemble.assemble``.

  Raises:
    UserError: options that do not fit together.
  """

  def build(model: nn.Module, config: GaiaConfig, mapping: nodes.Nodes) -> Algorithm:
    return gaia(model, config, mapping, task.transform, task.image_shape)

  return _make(task, config, build, loop, schedule, dial, network, **options)


def make_periodic(
  task: Task,
  config: PeriodicConfig,
  loop: LoopConfig,
  schedule: Schedule,
  *,
  dial: Dial,
  network: str | None = None,
  **options: Any,
) -> Program:
  """FedAvg step by step on a task; the dial is of Iter_Local (see :func:`make_gaia`)."""

  def build(model: nn.Module, config: PeriodicConfig, mapping: nodes.Nodes) -> Algorithm:
    return periodic(model, config, mapping, task.transform, task.image_shape)

  return _make(task, config, build, loop, schedule, dial, network, **options)


def make_dgc(
  task: Task,
  config: DgcConfig,
  loop: LoopConfig,
  schedule: Schedule,
  *,
  dial: Dial,
  network: str | None = None,
  **options: Any,
) -> Program:
  """DGC on a task; the dial is of the sparsity s (see :func:`make_gaia`)."""
  count = task.data.num_clients

  def build(model: nn.Module, config: DgcConfig, mapping: nodes.Nodes) -> Algorithm:
    return dgc(model, config, mapping, task.transform, task.image_shape, count)

  return _make(task, config, build, loop, schedule, dial, network, **options)


def _make(
  task: Task,
  config: Any,
  build: Callable[..., Algorithm],
  loop: LoopConfig,
  schedule: Schedule,
  dial: Dial,
  network: str | None,
  **options: Any,
) -> Program:
  take_all(task, loop, "a decentralized algorithm")
  if jax.process_count() > 1:
    raise UserError(
      "partitions that keep models are simulated in one process; drop --num_processes."
    )
  if task.data.num_clients >= MOST_SENDERS:
    raise UserError(
      f"the ledger of updates counts fewer than {MOST_SENDERS:,} partitions, and there are "
      f"{task.data.num_clients:,}; take fewer --clients."
    )
  if len(dial.values) != loop.rounds or not np.all(np.isfinite(dial.values)):
    raise UserError(f"the dial has {len(dial.values)} thetas; give one for each of the rounds.")
  clock = clock_of(task, network, config.local.batch_size) if network else None
  return assemble(task, config, build, loop, schedule, dial=dial, clock=clock, **options)
