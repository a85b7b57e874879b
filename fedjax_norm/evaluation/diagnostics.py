"""How far the partitions of a federation and their models are apart, as pure functions (paper 004).

Relative differences of weights and of neurons are not defined by the paper beyond their name; here
both are the same |a - b| / ((|a| + |b|) / 2), from 0 (equal) to 2 (opposite signs), so that one can
be held against the other. The accuracy of each model by the classes of each partition (fig. 21) is
made of test scores and stands in ``training/diagnostics_recorder.py``.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
  """What a norm position sees of a minibatch, or of many on average.

  Attributes:
    mean: [C], over examples and space.
    variance: [C], biased.
  """

  mean: Array
  variance: Array


def norm_inputs(
  model: nn.Module, variables: Variables, images: Array, mode: Mode
) -> dict[str, Array]:
  """What enters each norm position of a model, whether or not its norm normalizes there.

  Args:
    model: any model that has a ``Norm`` wherever one could be.
    variables: its variables; running statistics stay as they are.
    images: [N, H, W, C] as the model takes them.
    mode: of the pass, without dropout.

  Returns:
    [N, *S, C] by the path of the module, 'a/b', in the order of the pass.
  """
  inputs: dict[str, Array] = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, Norm):
      inputs["/".join(context.module.path)] = args[0]
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    model.apply(variables, images, mode)
  return inputs


def norm_positions(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
  """The norm positions of a model's evaluation, first to last; computed on shapes alone."""
  found: list[str] = []

  def run():
    image = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(0), image, Mode())
    found.extend(norm_inputs(model, variables, image, Mode()))

  jax.eval_shape(run)
  return tuple(found)


def make_minibatch_moments(
  model: nn.Module, positions: Sequence[str], batch_size: int, transform: Transform
) -> Callable[..., dict[str, ChannelMoments]]:
  """The average minibatch mean and variance of a client's data (paper 004, sec. 5.1).

  The model is in training mode without dropout, and its running statistics do not move. A norm that
  merges statistics across clients sees here its own client's batch alone, which concerns the
  positions after its first one.

  Args:
    model: its norm bound to no axis.
    positions: some of :func:`norm_positions`.
    batch_size: of the minibatches; the last one of a pass over the data may be smaller.
    transform: of training images.

  Returns:
    ``moments(variables, data, row, batches, time, key)`` -> by position the mean over the client's
    first ``batches`` minibatches, each of which counts once; ``time`` is what norms are told.
  """

  def moments(
    variables: Variables, data: FederatedData, row: Array, batches: Array, time: Array, key: Key
  ) -> dict[str, ChannelMoments]:
    def of_batch(step: Array) -> dict[str, ChannelMoments]:
      batch = draw(data, row, step, batch_size, transform, key)
      mode = Mode(train=True, dropout=False, mask=batch.mask, step=time)
      inputs = norm_inputs(model, variables, batch.images, mode)
      found = {}
      for position in positions:
        seen = batch_moments(inputs[position].astype(jnp.float32), _PER_CHANNEL, batch.mask)
        found[position] = ChannelMoments(seen.mean.ravel(), seen.variance.ravel())
      return found

    shapes = jax.eval_shape(of_batch, jnp.int32(0))
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    total = lax.fori_loop(0, batches, lambda i, total: optax.tree.add(total, of_batch(i)), zeros)
    return optax.tree.scale(1 / batches, total)

  return moments


def divergence(values: Array) -> np.ndarray:
  """The divergence of a per-channel value between partitions (paper 004, sec. 5.1, fig. 4).

  ||v_i - v_j|| / ||(v_i + v_j) / 2||, channel by channel, as a mean over all pairs of partitions.
  Values of opposite sign give more than 2; where both are equal it is 0, zeros too.

  Args:
    values: [K, C] of K >= 2 partitions: their average minibatch means, or variances.

  Returns:
    [C] float64.

  Raises:
    ValueError: fewer than two partitions.
  """
  _check_pairs(values)
  pairs = itertools.combinations(np.asarray(values, np.float64), 2)
  with np.errstate(divide="ignore"):  # of exactly opposite values: infinite, as defined
    return np.mean([_ratio(np.abs(a - b), np.abs(a + b) / 2) for a, b in pairs], axis=0)


def relative_update(update: PyTree, weights: PyTree) -> float:
  """The mean over weights of |update / w|, all parameters alike; those of exactly 0 are left out.

  Args:
    update: of the weights' structure.
    weights: w; not a number where all of them are 0.
  """
  pairs = [
    (np.abs(np.asarray(u, np.float64)), np.abs(np.asarray(w, np.float64)))
    for u, w in zip(jax.tree.leaves(update), jax.tree.leaves(weights), strict=True)
  ]
  count = sum(int((w > 0).sum()) for _, w in pairs)
  total = sum(float((u[w > 0] / w[w > 0]).sum()) for u, w in pairs)
  return total / count if count else float("nan")


def residual_update_delta(residuals: Sequence[PyTree], weights: PyTree) -> float:
  """The mean over partitions and weights of |v_k / w| (paper 004, app. G, fig. 22).

  Args:
    residuals: v_k, what each partition has accumulated and not sent.
    weights: w of the global model; weights of exactly 0 are left out.
  """
  return float(np.mean([relative_update(v, weights) for v in residuals]))


def local_update_delta(models: Sequence[PyTree], weights: PyTree) -> float:
  """The mean over partitions and weights of |w_k - w| / |w| (paper 004, app. G, fig. 23).

  Args:
    models: w_k, the parameters of each partition's model.
    weights: w, those of the mean model; weights of exactly 0 are left out.
  """
  updates = [jax.tree.map(lambda a, b: np.asarray(a) - b, own, weights) for own in models]
  return residual_update_delta(updates, weights)


def relative_difference(a: Array, b: Array) -> Array:
  """|a - b| / ((|a| + |b|) / 2), element by element; 0 where both are 0."""
  return _ratio(abs(a - b), (abs(a) + abs(b)) / 2)


def weight_difference(models: Sequence[PyTree]) -> float:
  """The mean over pairs of partitions and over weights of their relative difference (app. G).

  Args:
    models: the parameters of each partition's model.

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
  """The mean relative difference of the neurons of two models for the same images (app. G).

  Neurons are what enters the norm positions, before any norm or activation function, in evaluation
  mode with each model's own running statistics.

  Args:
    model: of both.
    positions: some of :func:`norm_positions`.
    a: one model's variables.
    b: the other's.
    images: [N, H, W, C] as the model takes them.

  Returns:
    By position, the mean over images and neurons of their relative difference, from 0 to 2.
  """
  first, second = (norm_inputs(model, variables, images, Mode()) for variables in (a, b))
  return {
    position: relative_difference(
      first[position].astype(jnp.float32), second[position].astype(jnp.float32)
    ).mean()
    for position in positions
  }


def _ratio(difference: Array, scale: Array) -> Array:
  """Their quotient; 0 where there is no difference, whatever the scale."""
  return difference / (scale + (difference == 0) * (scale == 0))


def _check_pairs(partitions: Sequence) -> None:
  if len(partitions) < 2:
    raise ValueError("There is nothing to compare: give at least two partitions.")
