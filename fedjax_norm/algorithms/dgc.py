"""Deep gradient compression (Lin et al. 2018; paper 004, Alg. 3): only large updates are sent."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.algorithms.contract import Method, Setup, Theta
from fedjax_norm.algorithms.residual_updates import all_tensors, each_tensor, residual_algorithm
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig
from fedjax_norm.options import option
from fedjax_norm.typing import Array, Key

STAGES = (0.75, 0.9375, 0.984375, 0.996, 0.999)
"""Sparsity in each stage of the warm-up (Lin et al. 2018, sec. 3.3)."""

# As by Lin et al.: the share of a tensor that is sampled, the least number of sampled elements, and
# the excess of chosen elements above which the exact threshold replaces the sampled one.
_SAMPLED, _MIN_SAMPLE, _EXCESS = 0.01, 256, 1.3


@dataclasses.dataclass(frozen=True)
class DgcConfig(LocalConfig):
  """Options of DGC.

  Each of K clients clips its gradient to ``clip_norm / sqrt(K)`` (Lin et al. 2018, sec. 3.2), so
  that the sum of independent gradients of equal size has the norm ``clip_norm``.
  """

  group = "algorithm"

  sparsity: float = option(
    STAGES[-1],
    "Sparsity s of DGC (paper 004, Alg. 3) after the warm-up: the share of the elements of its "
    "accumulated update that a client does not send (--threshold_scope).",
    least=0,
    below=1,
    needs="skewscout=off,measure",
  )
  sparsity_warmup_rounds: int = option(
    0,
    "Number of rounds at each sparsity of the warm-up: 75, 93.75, 98.4375, 99.6 and 99.9%, as long "
    "as these are below --sparsity. 0: no warm-up.",
    least=0,
    needs="skewscout=off,measure",
  )
  sparsity_warmup_epochs: int | None = option(
    None,
    "Number of epochs at each sparsity of the warm-up (E_warm in paper 004), instead of "
    "--sparsity_warmup_rounds.",
    least=0,
    needs="skewscout=off,measure",
  )
  threshold_scope: str = option(
    "tensor",
    "Which elements share a threshold above which they are sent: those of one tensor (tensor; Lin "
    "et al. 2018), or of all tensors together (global). Paper 004, Alg. 3 can be read as either.",
    choices=("tensor", "global"),
  )
  selection: str = option(
    "exact",
    "How a threshold of --threshold_scope is determined: exactly (exact), or estimated from 1% of "
    "the elements (sampled; Lin et al. 2018).",
    choices=("exact", "sampled"),
  )
  momentum_masking: bool = option(
    True,
    "Momentum factor masking (Lin et al. 2018): the momentum of an element is set to zero when the "
    "element is sent.",
    needs="momentum",
  )

  def resolve(self, round_examples: int, examples: int) -> Self:
    """Returns the options with lengths in epochs converted to rounds (``EpochsConfig.resolve``)."""
    config = super().resolve(round_examples, examples)  # type: ignore[misc]
    if config.sparsity_warmup_epochs is None:
      return config
    each = config.sparsity_warmup_epochs * -(-examples // round_examples)
    return dataclasses.replace(config, sparsity_warmup_epochs=None, sparsity_warmup_rounds=each)

  def check(self) -> None:
    """Raises UserError if the warm-up is given in both epochs and rounds."""
    if self.sparsity_warmup_epochs is not None and self.sparsity_warmup_rounds:
      raise UserError("give --sparsity_warmup_epochs or --sparsity_warmup_rounds, not both.")


def num_sent(size: int, sparsity: Array) -> Array:
  """Returns the number of elements of a tensor to send: k = round((1 - s) size), at least 1."""
  count = jnp.round((1 - jnp.float32(sparsity)) * size).astype(jnp.int32)
  return jnp.where(sparsity <= 0, size, jnp.clip(count, 1, size))


def _bits(magnitudes: Array) -> Array:
  """Returns the bits of non-negative floats as integers, which have the order of the floats."""
  return lax.bitcast_convert_type(magnitudes.astype(jnp.float32), jnp.uint32)


def _threshold(bits: Array, count: Array) -> Array:
  """Returns the count-th largest integer in ``bits``, determined bit by bit from the highest."""

  def body(index: Array, threshold: Array) -> Array:
    candidate = threshold | (jnp.uint32(1) << (30 - index).astype(jnp.uint32))
    return jnp.where((bits >= candidate).sum(dtype=jnp.int32) >= count, candidate, threshold)

  return lax.fori_loop(0, 31, body, jnp.uint32(0))


def largest(v: Array, w: Array, sparsity: Array, key: Key | None = None) -> Array:
  """Returns a mask of the elements of v at or above the k-th magnitude (k: :func:`num_sent`)."""
  del w, key
  bits = _bits(jnp.abs(v))
  return bits >= _threshold(bits, num_sent(v.size, sparsity))


def roughly_largest(v: Array, w: Array, sparsity: Array, key: Key) -> Array:
  """Returns a mask of v by a threshold estimated from 1% of its elements (Lin et al. 2018, app. B).

  The sample is every stride-th element, from a random first element on. If the threshold chooses
  more than 1.3 k elements, the exact threshold replaces it; it can also choose fewer than k. At
  sparsity 0 all elements are chosen.
  """
  stride = min(int(1 / _SAMPLED), max(1, v.size // _MIN_SAMPLE))
  if stride == 1:
    return largest(v, w, sparsity)
  bits = _bits(jnp.abs(v)).ravel()
  count, sampled = num_sent(v.size, sparsity), v.size // stride
  first = jax.random.randint(key, (), 0, stride)
  strided = bits[: sampled * stride].reshape(sampled, stride)
  sample = lax.dynamic_slice_in_dim(strided, first, 1, axis=1)
  rough = jnp.where(sparsity <= 0, 0, _threshold(sample, num_sent(sampled, sparsity)))
  chosen = (bits >= rough).sum(dtype=jnp.int32)
  threshold = lax.cond(
    chosen > _EXCESS * count, lambda: _threshold(bits, count), lambda: rough.astype(jnp.uint32)
  )
  return (bits >= threshold).reshape(v.shape)


def dgc(config: DgcConfig, setup: Setup) -> Algorithm:
  """Makes DGC; a round is one step of every client k from the shared weights w:

    g <- -eta clip(grad f(w, b))
    u_k <- m u_k + g;  v_k <- v_k + u_k             (momentum correction)
    S <- |v_k| is among the largest share 1 - s   (a mask)
    send v_k S;  v_k <- v_k not S;  u_k <- u_k not S   (momentum factor masking)
    w <- w + updates from all clients

  m is the momentum, eta the learning rate, b a batch, and the sparsity s is ``theta``. The largest
  elements are those of each tensor, or of all tensors together (``threshold_scope``).

  clip scales the gradient down to the norm ``clip_norm / sqrt(K)``, as by Lin et al.; in line 5 of
  paper 004, Alg. 3, the clipped value includes the learning rate. At a constant rate the two differ
  only in the factor eta of the norm. Weight decay is added to the clipped gradient.
  """
  return residual_algorithm(
    dataclasses.replace(config, clip_norm=config.clip_norm / setup.num_clients**0.5),
    setup,
    largest if config.selection == "exact" else roughly_largest,
    local_models=False,
    clears_momentum=config.momentum_masking and config.momentum > 0,
    scope=each_tensor if config.threshold_scope == "tensor" else all_tensors,
  )


def warmup(
  rounds: int, sparsities: tuple[float, ...], stage_rounds: int, final: float
) -> np.ndarray:
  """Returns the sparsity of each round of a run, [rounds] float32.

  Each of ``sparsities`` holds for ``stage_rounds`` rounds (0: no warm-up), then ``final`` holds; no
  sparsity exceeds ``final``.
  """
  stage = np.arange(rounds) // stage_rounds if stage_rounds else np.full(rounds, len(sparsities))
  values = np.minimum([*sparsities, final], final)
  return values[np.minimum(stage, len(sparsities))].astype(np.float32)


DGC = Method(
  "dgc",
  DgcConfig,
  dgc,
  "Deep gradient compression: clients send their largest updates.",
  defaults={"lr": 0.01},
  stepwise=True,
  all_clients=True,
  one_process=True,
  theta=Theta(
    lambda config, rounds: warmup(rounds, STAGES, config.sparsity_warmup_rounds, config.sparsity),
    grid=STAGES,
    is_sparsity=True,
  ),
)
