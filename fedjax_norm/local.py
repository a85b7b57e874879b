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
    frozen_paths: parameters that stay as they are.
  """

  batch_size: int = 32
  momentum: float = 0.0
  nesterov: bool = False
  weight_decay: float = 0.0
  clip_norm: float = 0.0
  prox: float = 0.0
  frozen_paths: frozenset[str] = frozenset()

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


class Metrics(NamedTuple):
  """Sums over training examples, so that adding merges them.

  Attributes:
    loss: of the cross-entropies, float32.
    correct: of the right answers, int32.
    examples: how many, int32.
  """

  loss: Array
  correct: Array
  examples: Array

  @classmethod
  def zeros(cls) -> "Metrics":
    """Nothing seen."""
    return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0))


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


def cross_entropy(logits: Array, batch: Batch) -> tuple[Array, Metrics]:
  """The mean cross-entropy over a batch's examples, and its sums."""
  logits = logits.astype(jnp.float32)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
  real = batch.mask > 0
  count = real.sum(dtype=jnp.int32)
  total = jnp.where(real, losses, 0.0).sum()
  correct = (real & (logits.argmax(-1) == batch.labels)).sum(dtype=jnp.int32)
  return total / jnp.maximum(count, 1), Metrics(total, correct, count)


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

  batch = jax.ShapeDtypeStruct((config.batch_size, *images.shape), images.dtype)
  kept = jax.eval_shape(backward, variables, batch)
  return 4 * trees.num_bytes(variables) + trees.num_bytes(kept)


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

  def loss_fn(params, batch_stats, batch, step, key, anchor, share):
    variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    mode = Mode(train=True, mask=batch.mask, step=step)
    logits, changed = model.apply(
      variables, batch.images, mode, mutable=["batch_stats"], rngs={"dropout": key}
    )
    loss, metrics = cross_entropy(logits, batch)
    if config.prox:
      loss += config.prox / 2 * trees.squared_norm(trees.subtract(params, anchor))
    return loss * share, (changed.get("batch_stats", {}), metrics)

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
      share = jnp.float32(1)
      if axis_names:
        # In lock-step, a client that is done keeps the others company with an empty batch. The
        # backward pass through merged statistics adds the other clients' losses to this client's
        # gradient, so each loss must come in its share of the joint batch.
        batch = batch._replace(mask=batch.mask * (index < steps))
        count = batch.mask.sum()
        share = count / jnp.maximum(lax.psum(count, axis_names), 1.0)
      grad_fn = jax.grad(loss_fn, has_aux=True)
      grads, (new_stats, more) = grad_fn(
        params, batch_stats, batch, step / steps, jax.random.fold_in(key, index), anchor, share
      )
      if axis_names:
        grads = trees.scale(grads, 1 / jnp.where(share > 0, share, 1.0))
      updates, new_opt_state = transform.update(grads, opt_state, params)
      new_params = optax.apply_updates(params, trees.scale(updates, -rate))
      after = (new_params, new_stats, new_opt_state, trees.add(metrics, more))
      return trees.select(share > 0, after, carry) if axis_names else after

    start = (anchor, variables.get("batch_stats", {}), opt_state, Metrics.zeros())
    bound = lax.pmax(steps, axis_names) if axis_names else steps
    params, batch_stats, opt_state, metrics = lax.fori_loop(0, bound, body, start)
    after = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    return ClientOutput(after, opt_state, metrics)

  return update
