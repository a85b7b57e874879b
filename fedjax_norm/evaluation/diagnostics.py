"""Measures how much the clients' data (partitions) and models differ (paper 004).

The paper names relative differences of weights and of neurons but does not define them; here both
are |a - b| / ((|a| + |b|) / 2), from 0 (equal) to 2 (opposite signs), so that they are comparable.
The accuracy of each model on the classes of each partition (fig. 21) needs test scores and is in
``training/diagnostics_recorder.py``.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from fedjax_norm import norm
from fedjax_norm.data.federated import FederatedData, Transform, draw
from fedjax_norm.norm import Mode, Norm
from fedjax_norm.norm.normalize import batch_moments
from fedjax_norm.typing import Array, Key, PyTree, Variables

_PER_CHANNEL = norm.create("bn")


class ChannelMoments(NamedTuple):
  """Moments of the input of a norm layer in one minibatch, or means of them over minibatches.

  Attributes:
    mean: [C] mean over examples and space.
    variance: [C] biased variance over examples and space.
  """

  mean: Array
  variance: Array


def norm_inputs(
  model: nn.Module, variables: Variables, images: Array, mode: Mode
) -> dict[str, Array]:
  """Returns the input of each ``Norm`` layer of a model, also of layers with the norm `none`.

  Returns:
    inputs [N, *S, C] by the path of the layer, 'a/b', in the order of the forward pass.
  """
  inputs: dict[str, Array] = {}

  def record(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    if isinstance(context.module, Norm):
      inputs["/".join(context.module.path)] = args[0]
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    model.apply(variables, images, mode)
  return inputs


def norm_positions(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
  """Returns the paths of a model's ``Norm`` layers, first to last, without running the model."""
  positions: list[str] = []

  def run() -> None:
    image = jnp.zeros((1, *image_shape), jnp.float32)
    variables: Any = model.init(jax.random.key(0), image, Mode())
    positions.extend(norm_inputs(model, variables, image, Mode()))

  jax.eval_shape(run)
  return tuple(positions)


def make_minibatch_moments(
  model: nn.Module, positions: Sequence[str], batch_size: int, transform: Transform
) -> Callable[..., dict[str, ChannelMoments]]:
  """Returns a function for the average minibatch moments of a client (paper 004, sec. 5.1).

  The model runs in training mode without dropout, and its running statistics do not change. A norm
  that merges statistics across clients uses only this client's batch here, so the inputs of later
  layers differ from those in training. ``positions`` are paths of norm layers.

  Returns:
    ``moments(variables, data, row, batches, time, key)`` -> position -> unweighted mean of the
    moments over the first ``batches`` minibatches of the client in this row of ``data``; ``time``
    is the training step that norms receive.
  """

  def moments(
    variables: Variables, data: FederatedData, row: Array, batches: Array, time: Array, key: Key
  ) -> dict[str, ChannelMoments]:
    def minibatch_moments(step: Array) -> dict[str, ChannelMoments]:
      batch = draw(data, row, step, batch_size, transform, key)
      mode = Mode(train=True, dropout=False, mask=batch.mask, step=time)
      inputs = norm_inputs(model, variables, batch.images, mode)
      result = {}
      for name in positions:
        channels = batch_moments(inputs[name].astype(jnp.float32), _PER_CHANNEL, batch.mask)
        result[name] = ChannelMoments(channels.mean.ravel(), channels.variance.ravel())
      return result

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(minibatch_moments, jnp.int32(0)))
    sums = lax.fori_loop(0, batches, lambda i, s: optax.tree.add(s, minibatch_moments(i)), zeros)
    return optax.tree.scale(1 / batches, sums)

  return moments


def divergence(values: Array) -> np.ndarray:
  """Returns the divergence of per-channel values between partitions (paper 004, sec. 5.1, fig. 4).

  ||v_i - v_j|| / ||(v_i + v_j) / 2|| of each channel, as a mean over all pairs of partitions, for
  values [K, C]: average minibatch means, or variances. The result [C] is greater than 2 for values
  of opposite sign, and 0 for equal values, including zeros.

  Raises:
    ValueError: fewer than two partitions.
  """
  _check_pairs(values)
  pairs = itertools.combinations(np.asarray(values, np.float64), 2)
  with np.errstate(divide="ignore"):  # exactly opposite values: infinite by the definition
    return np.mean([_ratio(np.abs(a - b), np.abs(a + b) / 2) for a, b in pairs], axis=0)


def relative_update(update: PyTree, weights: PyTree) -> float:
  """Returns the mean of |update / w| over all weights w that are not 0; nan if all are 0."""
  pairs = [
    (np.abs(np.asarray(u, np.float64)), np.abs(np.asarray(w, np.float64)))
    for u, w in zip(jax.tree.leaves(update), jax.tree.leaves(weights), strict=True)
  ]
  count = sum(int((w > 0).sum()) for _, w in pairs)
  total = sum(float((u[w > 0] / w[w > 0]).sum()) for u, w in pairs)
  return total / count if count else float("nan")


def residual_update_delta(residuals: Sequence[PyTree], weights: PyTree) -> float:
  """Returns the mean over partitions and weights of |v_k / w| (paper 004, app. G, fig. 22).

  v_k is the sum of the updates that partition k has not sent yet; w is the global model, of which
  weights of exactly 0 are ignored.
  """
  return float(np.mean([relative_update(v, weights) for v in residuals]))


def local_update_delta(models: Sequence[PyTree], weights: PyTree) -> float:
  """Returns the mean over partitions and weights of |w_k - w| / |w| (paper 004, app. G, fig. 23).

  w_k is the model of partition k; w is the mean model, whose weights of exactly 0 are ignored.
  """
  updates = [jax.tree.map(lambda a, b: np.asarray(a) - b, model, weights) for model in models]
  return residual_update_delta(updates, weights)


def relative_difference(a: Array, b: Array) -> Array:
  """Returns |a - b| / ((|a| + |b|) / 2) elementwise; 0 where both are 0."""
  return _ratio(abs(a - b), (abs(a) + abs(b)) / 2)


def weight_difference(models: Sequence[PyTree]) -> float:
  """Returns the mean relative difference of weights, over pairs of models (paper 004, app. G).

  Raises:
    ValueError: fewer than two partitions.
  """
  _check_pairs(models)

  def mean(a: PyTree, b: PyTree) -> float:
    total = sum(
      float(relative_difference(np.asarray(x, np.float64), np.asarray(y, np.float64)).sum())
      for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    return total / optax.tree.size(a)

  return float(np.mean([mean(a, b) for a, b in itertools.combinations(models, 2)]))


def neuron_difference(
  model: nn.Module, positions: Sequence[str], a: Variables, b: Variables, images: Array
) -> dict[str, Array]:
  """Returns the mean relative difference of two models' neurons on images (paper 004, app. G).

  Neurons are the inputs of the norm layers at ``positions``, before norm and activation function.
  The models run in evaluation mode, each with its running statistics.

  Returns:
    position -> mean relative difference over images and neurons, from 0 to 2.
  """
  inputs = [norm_inputs(model, variables, images, Mode()) for variables in (a, b)]
  return {
    position: relative_difference(*(x[position].astype(jnp.float32) for x in inputs)).mean()
    for position in positions
  }


def _ratio(difference: Array, scale: Array) -> Array:
  """Returns difference / scale; 0 where the difference is 0, for every scale."""
  return difference / (scale + (difference == 0) * (scale == 0))


def _check_pairs(partitions: Sequence) -> None:
  if len(partitions) < 2:
    raise ValueError("Diagnostics compare partitions; pass at least two partitions.")
