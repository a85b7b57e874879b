"""An attacker who learns to turn activations back into images (Dosovitskiy and Brox 2016).

It takes pairs of an image and its activation, and no parameters: whoever has images of the kind and
sees their activations can train the decoder.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_norm.errors import UserError
from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, Key, Variables

Front = Callable[[Variables, Array], Array]
"""(the model's variables, images as stored [B, H, W, C]) -> activations [B, ...]."""

_SAMPLE = 256  # activations that their scale is taken from
_LOOKS = 10
_QUIET = 0.01  # of the mean variance, added to that of each channel


@dataclasses.dataclass(frozen=True)
class Attack:
  """How the attacker trains the decoder, with Adam and a rate that falls to 0 as a cosine.

  Attributes:
    steps: of training.
    batch_size: images of a step.
    rate: the first learning rate.
    features: channels of the decoder's hidden layers.
  """

  steps: int = 1000
  batch_size: int = 64
  rate: float = 2e-3
  features: int = 32

  def __post_init__(self):
    if self.steps < 1:
      raise UserError(f"the attacker's steps are {self.steps}; give at least 1.")


def reconstruct(
  front: Front,
  variables: Variables,
  auxiliary: Array,
  originals: Array,
  victims: Array,
  key: Key,
  attack: Attack,
) -> Array:
  """Trains a decoder on auxiliary images and applies it to the victims' activations; jittable.

  The loss is the mean square error. Activations are given to the decoder with mean 0 and about
  deviation 1 in each channel, as a sample of the auxiliary ones has them, and what it gives is
  added, in deviations, to the mean of the auxiliary images. An eighth of these is not trained on:
  what counts is what the decoder said at that one of ten looks at which it did best on them, or the
  mean where that did better.

  Args:
    front: what Alice does.
    variables: hers.
    auxiliary: [A, H, W, C] images that the attacker has, as stored; A at least 2.
    originals: [A, H, W, C] float32, the same as they are to come out.
    victims: [V, H, W, C] images that he does not have, as stored.
    key: of the decoder's start and its batches.
    attack: how he trains.

  Returns:
    [V, H, W, C] float32.
  """
  decoder = Decoder(originals.shape[1:], attack.features)
  sample = front(variables, auxiliary[:_SAMPLE]).astype(jnp.float32)
  axes = tuple(range(sample.ndim - 1))
  mean, variance = sample.mean(axes), sample.var(axes)
  # A channel that hardly ever fires is not to drown the others when it does.
  std = jnp.sqrt(variance + _QUIET * variance.mean() + 1e-12)
  guess = originals.mean(0)
  spread = (originals - guess).std()
  held = -(-len(auxiliary) // 8)
  optimizer = optax.adam(optax.cosine_decay_schedule(attack.rate, attack.steps))
  init_key, draw_key = jax.random.split(key)
  start = decoder.init(init_key, sample[:1], Mode())

  def decode(weights: Variables, images: Array) -> Array:
    seen = front(variables, images).astype(jnp.float32)
    return guess + spread * decoder.apply(weights, (seen - mean) / std, Mode())

  def step(index, carry):
    weights, state = carry
    drawn_key = jax.random.fold_in(draw_key, index)
    ids = jax.random.randint(drawn_key, (attack.batch_size,), held, len(auxiliary))

    def loss(weights: Variables) -> Array:
      return jnp.square(decode(weights, auxiliary[ids]) - originals[ids]).mean()

    updates, state = optimizer.update(jax.grad(loss)(weights), state)
    return optax.apply_updates(weights, updates), state

  def look(index, carry):
    weights, state, best, least = carry
    stretch = index * attack.steps // _LOOKS, (index + 1) * attack.steps // _LOOKS
    weights, state = jax.lax.fori_loop(*stretch, step, (weights, state))
    images = jnp.concatenate([auxiliary[:held], victims])
    found = in_batches(lambda part: decode(weights, part), attack.batch_size, images)
    error = jnp.square(found[:held] - originals[:held]).mean()
    return weights, state, jnp.where(error < least, found[held:], best), jnp.minimum(error, least)

  best = jnp.broadcast_to(guess, (len(victims), *guess.shape))
  least = jnp.square(guess - originals[:held]).mean()
  begin = start, optimizer.init(start), best, least
  return jax.lax.fori_loop(0, _LOOKS, look, begin)[2]


def in_batches(of: Callable[..., Array], size: int, *arrays: Array) -> Array:
  """A function of rows applied to ``size`` of them at a time; the last rows are padded with others.

  Args:
    of: ([size, ...], ...) -> [size, ...], each row by itself.
    size: rows at a time.
    *arrays: [N, ...] each.
  """
  count, arrays = len(arrays[0]), tuple(map(jnp.asarray, arrays))
  ids = jnp.arange(-(-count // size) * size).reshape(-1, size) % count
  parts = jax.lax.map(lambda ids: of(*(array[ids] for array in arrays)), ids)
  return parts.reshape(-1, *parts.shape[2:])[:count]
