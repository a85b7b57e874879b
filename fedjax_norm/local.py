"""The client: a pure loop of local SGD steps."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from fedjax_norm import tree_leaves
from fedjax_norm.data.federated import steps_per_epoch
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.objectives import Objective, find
from fedjax_norm.options import Options, option, refuse_beside
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables

STATISTICS = ("mean", "moments", "local", "recalibrate")
"""The ways to combine running statistics (see ``algorithms/batch_statistics.py``)."""


@dataclasses.dataclass(frozen=True)
class SgdConfig(Options):
  """The options of SGD; everything here is compiled in.

  Attributes:
    optimizer: an optax transformation in place of SGD's clipping, weight decay and momentum; its
      updates are multiplied by the negated learning rate.
    frozen_paths: paths of the parameters that do not train.
  """

  group = "training"

  batch_size: int = option(32, "Examples per local step.", least=1)
  momentum: float = option(
    0.9, "Momentum of SGD: the clients' own, or the master's in SSGD and ASGD.", least=0, below=1
  )
  nesterov: bool = option(False, "Use Nesterov momentum.", needs="momentum")
  weight_decay: float = option(5e-4, "L2 penalty that the optimizer adds to the gradient.", least=0)
  clip_norm: float = option(0.0, "Largest global norm of a gradient; 0 does not clip.", least=0)
  optimizer: optax.GradientTransformation | None = None
  frozen_paths: frozenset[str] = frozenset()

  def check(self):
    """Refuses options of SGD that an optimizer of the user's own does not read."""
    if self.optimizer is not None:
      refuse_beside(self, "optimizer", "momentum", "nesterov", "weight_decay", "clip_norm")


@dataclasses.dataclass(frozen=True)
class LocalConfig(SgdConfig):
  """How a client, or the master of SSGD, takes a step.

  The configurations of all algorithms inherit from it.

  Attributes:
    objective: the training loss: a name of ``objectives.OBJECTIVES``, or a user's own.
  """

  group = "training"

  accumulate: int = option(
    1,
    "Number of equal parts into which a batch is divided; the parts go through the model one after "
    "another and their gradients are summed.",
    least=1,
  )
  batch_stats: str | None = option(
    None,
    "How the server combines the clients' running statistics: mean (the default), moments (keeps "
    "the variance between clients), local (they stay on the client: SiloBN), or recalibrate "
    "(recomputed with the global model before each evaluation).",
    choices=STATISTICS,
  )
  objective: str | Objective = "classification"

  def check(self):
    """Refuses options that contradict each other."""
    if self.batch_size % self.accumulate:
      raise UserError(
        f"a batch of {self.batch_size} cannot be taken in {self.accumulate} equal parts; choose an "
        "accumulate that divides the batch_size."
      )
    find(self.objective)

  def policy(self, spec: NormSpec) -> str:
    """How running statistics are combined under a norm: ``batch_stats``, or its default."""
    del spec
    return self.batch_stats or "mean"

  @property
  def keeps_momentum(self) -> bool:
    """Whether a client's optimizer state stays on it between rounds."""
    return False

  @property
  def keeps_norms(self) -> bool:
    """Whether the norms' parameters stay on the client (FedBN)."""
    return False

  def steps(self, size: Any) -> Any:
    """The local steps per round of a client with this many examples."""
    return 0 * size + 1

  def in_force(self, spec: NormSpec, all_clients: bool) -> Self:
    """The options in force: what was not given follows from the norm and the cohort.

    Args:
      spec: the model's norm.
      all_clients: whether every client takes part in every round.
    """
    del all_clients
    return dataclasses.replace(self, batch_stats=self.policy(spec))

  @property
  def of_a_seed(self) -> bool:
    """Whether the compiled program depends on the seed or on the sizes of the clients' data."""
    return False

  @property
  def steps_vary(self) -> bool:
    """Whether clients take other numbers of steps if their data has other sizes."""
    return False

  def round_examples(self, clients: int) -> int:
    """The examples of a step of so many clients, by which epochs are counted."""
    return self.batch_size * clients

  def step_examples(self, sizes: np.ndarray) -> np.ndarray:
    """The examples of a step of each client: [K], given their numbers of examples [K]."""
    return np.full(len(sizes), self.batch_size)


@dataclasses.dataclass(frozen=True)
class LocalStepsConfig(LocalConfig):
  """Options of algorithms whose clients take several local steps per round."""

  group = "algorithm"

  local_steps: int | None = option(
    None, "Local steps of a client per round; 1 by default.", least=1
  )
  local_epochs: int | None = option(
    None, "Passes of a client over its data per round, instead of --local_steps.", least=1
  )

  def check(self):
    """Refuses two lengths."""
    if self.local_steps is not None and self.local_epochs is not None:
      raise UserError("local_steps and local_epochs exclude each other; give one of them.")

  @property
  def steps_vary(self) -> bool:
    """Whether clients take other numbers of steps if their data has other sizes."""
    return self.local_epochs is not None

  def steps(self, size: Any) -> Any:
    """The local steps per round of a client with this many examples."""
    if self.local_epochs is None:
      return 0 * size + (self.local_steps or 1)
    return self.local_epochs * steps_per_epoch(size, self.batch_size)

  def in_force(self, spec: NormSpec, all_clients: bool) -> Self:
    """The options in force."""
    config = super().in_force(spec, all_clients)
    if config.local_steps is None and config.local_epochs is None:
      return dataclasses.replace(config, local_steps=1)
    return config


class Metrics(NamedTuple):
  """Sums over training examples, so that adding merges them.

  Attributes:
    loss: of the examples' losses, float32.
    correct: of the share that is right of each (see ``objectives.py``), float32; 0 where nothing is
      right or wrong.
    examples: how many, int32.
  """

  loss: Array
  correct: Array
  examples: Array

  @classmethod
  def zeros(cls) -> "Metrics":
    """Nothing seen."""
    return cls(jnp.float32(0), jnp.float32(0), jnp.int32(0))


class ClientOutput(NamedTuple):
  """What a client has after its local steps.

  Attributes:
    variables: its model.
    opt_state: its optimizer's state.
    metrics: of its steps.
  """

  variables: Variables
  opt_state: PyTree
  metrics: Metrics


def optimizer(config: SgdConfig) -> optax.GradientTransformation:
  """SGD at rate 1: clip, decay, momentum (the rate multiplies the result).

  A user's own optimizer takes the place of all three.

  Its state has one structure whether or not a step clips or freezes, so that momentum survives a
  change of phase.
  """

  def freeze(updates: PyTree, params: PyTree) -> PyTree:
    del params
    return tree_leaves.put(
      updates, jax.tree.map(jnp.zeros_like, tree_leaves.pick(updates, config.frozen_paths))
    )

  frozen = optax.stateless(freeze) if config.frozen_paths else optax.identity()
  if config.optimizer is not None:
    return optax.chain(frozen, config.optimizer, frozen)
  return optax.chain(
    frozen,  # so that what does not move does not count towards the norm that is clipped
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
    optax.add_decayed_weights(config.weight_decay) if config.weight_decay else optax.identity(),
    optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity(),
    frozen,  # and so that neither decay nor an older momentum moves it
  )


def measure(objective: str | Objective, outputs: Array, batch: Batch) -> Metrics:
  """The sums of the loss and of what is right over a batch's real examples.

  Args:
    objective: of ``objectives.OBJECTIVES``.
    outputs: the model's, of any float dtype.
    batch: its ``labels`` are the objective's targets.
  """
  chosen, outputs = find(objective), outputs.astype(jnp.float32)
  real = batch.mask > 0

  def total(values: Array) -> Array:
    return jnp.where(real, values, 0).sum(dtype=jnp.float32)

  right = total(chosen.right(outputs, batch.labels)) if chosen.right else jnp.float32(0)
  return Metrics(total(chosen.loss(outputs, batch.labels)), right, real.sum(dtype=jnp.int32))


def step_bytes(model: nn.Module, config: LocalConfig, images: jax.ShapeDtypeStruct) -> int:
  """The bytes that a client's step takes: its model, three more of that size, and what it keeps.

  The three are the gradient, the update and the momentum. What the backward pass keeps of the
  forward pass is counted as autodiff has it, before the compiler does away with some of it.

  Args:
    model: its norm bound to no axis.
    config: the client's settings.
    images: one image's shape and the dtype that the model computes in.
  """
  key = jax.random.key(0)
  variables = jax.eval_shape(
    lambda: model.init(key, jnp.zeros((1, *images.shape), images.dtype), Mode())
  )

  def backward(variables, batch):
    def logits(params):
      mode = Mode(train=True, step=jnp.int32(0))
      changed = ["batch_stats"]
      return model.apply(
        {**variables, "params": params}, batch, mode, mutable=changed, rngs={"dropout": key}
      )

    return jax.vjp(logits, variables["params"])[1]

  batch = jax.ShapeDtypeStruct(
    (config.batch_size // config.accumulate, *images.shape), images.dtype
  )
  kept = jax.eval_shape(backward, variables, batch)
  return 4 * tree_leaves.num_bytes(variables) + tree_leaves.num_bytes(kept)


def make_gradient(
  model: nn.Module, config: LocalConfig, axis_names: tuple[str, ...] = ()
) -> Callable[..., tuple[PyTree, PyTree, Metrics]]:
  """The gradient of a batch's mean loss: the objective's, and what the model adds to it.

  A model adds losses of its own (auxiliary classifiers, the centre loss) by sowing each one's sum
  over the batch's real examples into the collection ``losses``, in training alone.

  A batch is taken in ``config.accumulate`` parts, one after another, whose gradients add up to that
  of the whole: memory is that of a part. Norms that look across the batch see a part at a time, and
  running statistics move once a part.

  Args:
    model: the model, its norm bound to ``axis_names``.
    config: the client's settings.
    axis_names: the mapped axes over which the model's norms merge statistics; empty when nodes do
      not look at each other.

  Returns:
    ``gradient(params, batch_stats, batch, time, key) -> (gradient, batch_stats, metrics)``: of the
    mean over this node's own examples (zero of none). ``time`` is what norms are told, and dropout
    derives from ``key``.

  Raises:
    UserError: parts of a batch under a norm that is to see the joint batch.
  """
  parts = config.accumulate
  if parts > 1 and model.norm.across_nodes:
    raise UserError(
      f"norm {model.norm.name!r} is to see the joint batch of all nodes, and accumulate={parts} "
      "shows it a part at a time; drop one of them."
    )

  def loss_fn(params, batch_stats, batch, time, key, count):
    variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    mode = Mode(
      train=True, mask=batch.mask, step=time, labels=batch.labels, objective=config.objective
    )
    changing = ["batch_stats", "losses"]
    outputs, changed = model.apply(
      variables, batch.images, mode, mutable=changing, rngs={"dropout": key}
    )
    metrics = measure(config.objective, outputs, batch)
    own = sum(jax.tree.leaves(changed.get("losses", {})), metrics.loss)
    return own / jnp.maximum(count, 1), (changed.get("batch_stats", {}), metrics)

  grad_fn = jax.grad(loss_fn, has_aux=True)

  def gradient(params, batch_stats, batch: Batch, time, key):
    own = count = batch.mask.sum()
    if axis_names:
      # The backward pass through merged statistics adds the other nodes' losses to this node's
      # gradient, so each loss must come in its share of the joint batch.
      count = lax.psum(count, axis_names)
    if parts == 1:
      grads, (batch_stats, metrics) = grad_fn(params, batch_stats, batch, time, key, count)
    else:

      def body(carry, item):
        total, batch_stats, metrics = carry
        index, part = item
        part_key = jax.random.fold_in(key, index)
        grads, (batch_stats, more) = grad_fn(params, batch_stats, part, time, part_key, count)
        return (optax.tree.add(total, grads), batch_stats, optax.tree.add(metrics, more)), None

      divided = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
      start = (jax.tree.map(jnp.zeros_like, params), batch_stats, Metrics.zeros())
      (grads, batch_stats, metrics), _ = lax.scan(body, start, (jnp.arange(parts), divided))
    if axis_names:
      grads = optax.tree.scale(count / jnp.maximum(own, 1.0), grads)
    return grads, batch_stats, metrics

  return gradient


def make_client_update(
  model: nn.Module, config: LocalConfig, axis_names: tuple[str, ...] = ()
) -> Callable[..., ClientOutput]:
  """A client's local training.

  Args:
    model: the model, its norm bound to ``axis_names``.
    config: the client's settings.
    axis_names: the mapped axes over which the model's norms merge statistics; empty when clients do
      not look at each other.

  Returns:
    ``update(variables, opt_state, draw, first_step, steps, rate, key, correction=None,
    extra_loss=None) -> ClientOutput``, where ``draw(step)`` is the client's batch, ``steps`` the
    number of local steps (traced) and ``rate`` the learning rate eta. A step is

      w <- w - eta (optimizer(gradient of the loss + extra_loss(w)) + correction).

    The correction, of the parameters' structure, is added after clipping, decay and momentum:
    inside the gradient, momentum would multiply it. Step ``i`` derives its dropout from
    ``fold_in(key, i)``. Norms are told the time as ``step / steps``: the round and the fraction of
    it, the same for clients of all sizes.
  """
  transform = optimizer(config)
  gradient = make_gradient(model, config, axis_names)

  def update(
    variables: Variables,
    opt_state: PyTree,
    draw: Callable[[Array], Batch],
    first_step: Array,
    steps: Array,
    rate: Array,
    key: Key,
    correction: PyTree | None = None,
    extra_loss: Callable[[PyTree], Array] | None = None,
  ) -> ClientOutput:
    def body(index, carry):
      params, batch_stats, opt_state, metrics = carry
      step = first_step + index
      batch = draw(step)
      if axis_names:
        # In lock-step, a client that is done keeps the others company with an empty batch.
        batch = batch._replace(mask=batch.mask * (index < steps))
      grads, new_stats, more = gradient(
        params, batch_stats, batch, step / steps, jax.random.fold_in(key, index)
      )
      if extra_loss is not None:
        grads = optax.tree.add(grads, jax.grad(extra_loss)(params))
      updates, new_opt_state = transform.update(grads, opt_state, params)
      if correction is not None:
        updates = optax.tree.add(updates, correction)
      new_params = optax.apply_updates(params, optax.tree.scale(-rate, updates))
      after = (new_params, new_stats, new_opt_state, optax.tree.add(metrics, more))
      return optax.tree.where(batch.mask.any(), after, carry) if axis_names else after

    start = (variables["params"], variables.get("batch_stats", {}), opt_state, Metrics.zeros())
    bound = lax.pmax(steps, axis_names) if axis_names else steps
    params, batch_stats, opt_state, metrics = lax.fori_loop(0, bound, body, start)
    after = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    return ClientOutput(after, opt_state, metrics)

  return update
