"""An attack that reconstructs images from activations by a decoder (Dosovitskiy and Brox 2016)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_norm.errors import UserError
from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, Key, PyTree, Variables

Front = Callable[[Variables, Array], Array]
"""(variables of the model, stored images [B, H, W, C]) -> activations at the cut [B, ...]."""

_SAMPLE = 256  # number of images whose activations give the mean and scale of each channel
_EVALUATIONS = 10
_VARIANCE_FLOOR = 0.01  # share of the mean variance that is added to the variance of each channel


@dataclasses.dataclass(frozen=True)
class Attack:
  """Options of the training of the decoder, by Adam with a cosine learning rate schedule.

  Attributes:
    steps: number of training steps.
    batch_size: images per step.
    rate: initial learning rate; the final one is 0.
    features: channels of the decoder's hidden layers.
  """

  steps: int = 1000
  batch_size: int = 64
  rate: float = 2e-3
  features: int = 32

  def __post_init__(self) -> None:
    if self.steps < 1:
      raise UserError(f"the attacker's decoder has {self.steps} training steps; give at least 1.")


def reconstruct(
  front: Front,
  variables: Variables,
  auxiliary: Array,
  originals: Array,
  victims: Array,
  key: Key,
  attack: Attack,
) -> Array:
  """Reconstructs images from activations by a decoder that the attacker trains; jittable.

  The attacker needs no model parameters, only images like the clients' and their activations (the
  auxiliary images). The decoder's input is standardized in each channel; its output is scaled and
  added to the mean of the auxiliary images. The loss is the mean square error. An eighth of the
  auxiliary images is used for validation, not for training: the result is from the best of ten
  evaluations, or is the mean image if that has a smaller error.

  Args:
    front: the client's part of the model.
    variables: variables of the model.
    auxiliary: [A, H, W, C] stored images that the attacker has; A at least 2.
    originals: [A, H, W, C] float32 auxiliary images as the decoder should output them.
    victims: [V, H, W, C] stored images to reconstruct, which the attacker does not have.
    key: random key of the decoder's initial weights and of the batches.
    attack: training options of the decoder.

  Returns:
    reconstructions of the victims, [V, H, W, C] float32.
  """
  decoder = Decoder(originals.shape[1:], attack.features)
  sample = front(variables, auxiliary[:_SAMPLE]).astype(jnp.float32)
  axes = tuple(range(sample.ndim - 1))
  mean, variance = sample.mean(axes), sample.var(axes)
  # Bounds the scale of a channel that is almost always zero.
  std = jnp.sqrt(variance + _VARIANCE_FLOOR * variance.mean() + 1e-12)
  guess = originals.mean(0)
  spread = (originals - guess).std()
  held_out = -(-len(auxiliary) // 8)
  optimizer = optax.adam(optax.cosine_decay_schedule(attack.rate, attack.steps))
  init_key, draw_key = jax.random.split(key)
  start = decoder.init(init_key, sample[:1], Mode())

  def decode(weights: Variables, images: Array) -> Array:
    activations = front(variables, images).astype(jnp.float32)
    return guess + spread * decoder.apply(weights, (activations - mean) / std, Mode())

  def step(index: Array, carry: tuple[Variables, PyTree]) -> tuple[Variables, PyTree]:
    weights, state = carry
    batch_key = jax.random.fold_in(draw_key, index)
    ids = jax.random.randint(batch_key, (attack.batch_size,), held_out, len(auxiliary))

    def loss(weights: Variables) -> Array:
      return jnp.square(decode(weights, auxiliary[ids]) - originals[ids]).mean()

    updates, state = optimizer.update(jax.grad(loss)(weights), state)
    return optax.apply_updates(weights, updates), state

  def train_and_evaluate(
    index: Array, carry: tuple[Variables, PyTree, Array, Array]
  ) -> tuple[Variables, PyTree, Array, Array]:
    weights, state, best, least = carry
    first, end = (i * attack.steps // _EVALUATIONS for i in (index, index + 1))
    weights, state = jax.lax.fori_loop(first, end, step, (weights, state))
    images = jnp.concatenate([auxiliary[:held_out], victims])
    decoded = in_batches(lambda part: decode(weights, part), attack.batch_size, images)
    error = jnp.square(decoded[:held_out] - originals[:held_out]).mean()
    best = jnp.where(error < least, decoded[held_out:], best)
    return weights, state, best, jnp.minimum(error, least)

  best = jnp.broadcast_to(guess, (len(victims), *guess.shape))
  least = jnp.square(guess - originals[:held_out]).mean()
  begin = start, optimizer.init(start), best, least
  return jax.lax.fori_loop(0, _EVALUATIONS, train_and_evaluate, begin)[2]


def in_batches(function: Callable[..., Array], size: int, *arrays: Array) -> Array:
  """Applies a function to arrays in batches of rows and returns the concatenated results [N, ...].

  Args:
    function: ([size, ...], ...) -> [size, ...]; must process each row independently of the others.
    size: rows per batch; the last batch is filled up with the first rows.
    *arrays: arguments of the function, arrays [N, ...].
  """
  count, arrays = len(arrays[0]), tuple(map(jnp.asarray, arrays))
  ids = jnp.arange(-(-count // size) * size).reshape(-1, size) % count
  parts = jax.lax.map(lambda ids: function(*(array[ids] for array in arrays)), ids)
  return parts.reshape(-1, *parts.shape[2:])[:count]
