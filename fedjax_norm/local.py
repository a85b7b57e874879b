"""The client: a pure loop of local SGD steps."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from fedjax_norm import trees
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import Objective, find
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class LocalConfig:
  """How a client trains; everything here is compiled in.

  Attributes:
    batch_size: examples a step.
    momentum: of the client's SGD, 0 for none.
    nesterov: whether the momentum looks ahead.
    weight_decay: added to the gradient as weight_decay * w, for every parameter.
    clip_norm: the greatest global norm of a gradient, before weight decay; 0 for no clipping.
    prox: mu of FedProx (Li et al. 2020): mu / 2 |w - w_round|^2 is added to the loss.
    accumulate: the parts in which a batch goes through the model, one after another; their
      gradients add up.
    frozen_paths: parameters that stay as they are.
    objective: the training loss: a name of ``objectives.OBJECTIVES``, or a user's own.
  """

  batch_size: int = 32
  momentum: float = 0.0
  nesterov: bool = False
  weight_decay: float = 0.0
  clip_norm: float = 0.0
  prox: float = 0.0
  accumulate: int = 1
  frozen_paths: frozenset[str] = frozenset()
  objective: str | Objective = "classification"

  def __post_init__(self):
    if self.batch_size < 1:
      raise UserError(f"batch_size is {self.batch_size}; it must be at least 1.")
    if not 0 <= self.momentum < 1:
      raise UserError(f"momentum is {self.momentum}; it must be from 0 to below 1.")
    if self.nesterov and not self.momentum:
      raise UserError("nesterov does nothing without momentum; set both or neither.")
    for field in ("weight_decay", "clip_norm", "prox"):
      if not getattr(self, field) >= 0:
        raise UserError(f"{field} is {getattr(self, field)}; it must be 0 or more.")
    if self.accumulate < 1 or self.batch_size % self.accumulate:
      raise UserError(
        f"a batch of {self.batch_size} cannot be taken in {self.accumulate} equal parts; choose an "
        "accumulate that divides the batch_size."
      )
    find(self.objective)


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


def optimizer(config: LocalConfig) -> optax.GradientTransformation:
  """The client's SGD at rate 1: clip, decay, momentum (the rate multiplies the result).

  Its state has one structure whether or not a step clips or freezes, so that momentum survives a
  change of phase.
  """

  def freeze(updates: PyTree, params: PyTree) -> PyTree:
    del params
    return trees.put(
      updates, jax.tree.map(jnp.zeros_like, trees.pick(updates, config.frozen_paths))
    )

  frozen = optax.stateless(freeze) if config.frozen_paths else optax.identity()
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
  return 4 * trees.num_bytes(variables) + trees.num_bytes(kept)


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
        return (trees.add(total, grads), batch_stats, trees.add(metrics, more)), None

      divided = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
      start = (jax.tree.map(jnp.zeros_like, params), batch_stats, Metrics.zeros())
      (grads, batch_stats, metrics), _ = lax.scan(body, start, (jnp.arange(parts), divided))
    if axis_names:
      grads = trees.scale(grads, count / jnp.maximum(own, 1.0))
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
    ``update(variables, opt_state, draw, first_step, steps, rate, key) -> ClientOutput``, where
    ``draw(step)`` is the client's batch, ``steps`` the number of local steps (traced) and ``rate``
    the learning rate. Step ``i`` derives its dropout from ``fold_in(key, i)``. Norms are told the
    time as ``step / steps``: the round and the fraction of it, the same for clients of all sizes.
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
  ) -> ClientOutput:
    anchor = variables["params"]

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
      if config.prox:
        grads = trees.add(grads, trees.scale(trees.subtract(params, anchor), config.prox))
      updates, new_opt_state = transform.update(grads, opt_state, params)
      new_params = optax.apply_updates(params, trees.scale(updates, -rate))
      after = (new_params, new_stats, new_opt_state, trees.add(metrics, more))
      return trees.select(batch.mask.any(), after, carry) if axis_names else after

    start = (anchor, variables.get("batch_stats", {}), opt_state, Metrics.zeros())
    bound = lax.pmax(steps, axis_names) if axis_names else steps
    params, batch_stats, opt_state, metrics = lax.fori_loop(0, bound, body, start)
    after = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    return ClientOutput(after, opt_state, metrics)

  return update
