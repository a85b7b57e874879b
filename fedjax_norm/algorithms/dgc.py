"""Deep gradient compression (Lin et al. 2018; paper 004, Alg. 3): only the largest updates go."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.algorithms.contract import Algorithm, Method, Setup, Theta
from fedjax_norm.algorithms.residual import residual_algorithm
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig
from fedjax_norm.options import option
from fedjax_norm.typing import Array, Key

STAGES = (0.75, 0.9375, 0.984375, 0.996, 0.999)
"""The sparsities of the warm-up (Lin et al. 2018, sec. 3.3), E_warm epochs each."""

# The original's: the share of a tensor that is sampled, of no fewer elements than this, and by how
# much more than asked for a sampled threshold may let through before it is made exact.
_SAMPLED, _LEAST_SAMPLE, _EXCESS = 0.01, 256, 1.3


@dataclasses.dataclass(frozen=True)
class DgcConfig(LocalConfig):
  """What DGC is told.

  With K partitions each clips its gradient to ``clip_norm / sqrt(K)`` (Lin et al. 2018, sec. 3.2),
  so that their sum has the norm ``clip_norm`` if they are of one size and independent.
  """

  group = "algorithm"

  sparsity: float = option(
    STAGES[-1],
    "The final s: the share of a tensor that is not sent.",
    least=0,
    below=1,
    needs="skewscout=off,measure",
  )
  sparsity_warmup_rounds: int = option(
    0,
    "Rounds of each of the stages 75, 93.75, 98.4375, 99.6 and 99.9%.",
    least=0,
    needs="skewscout=off,measure",
  )
  sparsity_warmup_epochs: int | None = option(
    None,
    "The same in epochs (E_warm), instead of --sparsity_warmup_rounds.",
    least=0,
    needs="skewscout=off,measure",
  )
  selection: str = option(
    "exact",
    "Whether the threshold of a tensor is exact, or that of a sample.",
    choices=("exact", "sampled"),
  )
  momentum_masking: bool = option(
    True, "Clear the momentum of what is sent (momentum factor masking).", needs="momentum"
  )

  def resolve(self, round_examples: int, examples: int) -> Self:
    """The same with all lengths in rounds (see ``EpochsConfig.resolve``)."""
    config = super().resolve(round_examples, examples)  # type: ignore[misc]
    if config.sparsity_warmup_epochs is None:
      return config
    each = config.sparsity_warmup_epochs * -(-examples // round_examples)
    return dataclasses.replace(config, sparsity_warmup_epochs=None, sparsity_warmup_rounds=each)

  def check(self):
    """Refuses options that contradict each other."""
    if self.sparsity_warmup_epochs is not None and self.sparsity_warmup_rounds:
      raise UserError("give --sparsity_warmup_epochs or --sparsity_warmup_rounds, not both.")


def kept(size: int, sparsity: Array) -> Array:
  """How many elements of a tensor a sparsity lets through: k = round((1 - s) size), at least 1."""
  count = jnp.round((1 - jnp.float32(sparsity)) * size).astype(jnp.int32)
  return jnp.where(sparsity <= 0, size, jnp.clip(count, 1, size))


def _bits(magnitudes: Array) -> Array:
  """Floats of 0 or more as integers in the same order."""
  return lax.bitcast_convert_type(magnitudes.astype(jnp.float32), jnp.uint32)


def _threshold(bits: Array, count: Array) -> Array:
  """The count-th largest integer, found bit by bit from the highest on."""

  def body(index, found):
    candidate = found | (jnp.uint32(1) << (30 - index).astype(jnp.uint32))
    return jnp.where((bits >= candidate).sum(dtype=jnp.int32) >= count, candidate, found)

  return lax.fori_loop(0, 31, body, jnp.uint32(0))


def largest(v: Array, w: Array, sparsity: Array, key: Key | None = None) -> Array:
  """Which elements are the k largest by magnitude, or as large as the k-th (see :func:`kept`)."""
  del w, key
  bits = _bits(jnp.abs(v))
  return bits >= _threshold(bits, kept(v.size, sparsity))


def roughly_largest(v: Array, w: Array, sparsity: Array, key: Key) -> Array:
  """The same by the threshold of a hundredth of the elements (Lin et al. 2018, app. B).

  The sample is every stride-th element, from a random one on. A threshold that lets through more
  than 1.3 k elements is made exact. One that lets through too few stands, so that there may be
  fewer than k; at sparsity 0 all are chosen.
  """
  stride = min(int(1 / _SAMPLED), max(1, v.size // _LEAST_SAMPLE))
  if stride == 1:
    return largest(v, w, sparsity)
  bits = _bits(jnp.abs(v)).ravel()
  count, sampled = kept(v.size, sparsity), v.size // stride
  first = jax.random.randint(key, (), 0, stride)
  sample = lax.dynamic_slice_in_dim(
    bits[: sampled * stride].reshape(sampled, stride), first, 1, axis=1
  )
  rough = jnp.where(sparsity <= 0, 0, _threshold(sample, kept(sampled, sparsity)))
  found = (bits >= rough).sum(dtype=jnp.int32)
  threshold = lax.cond(
    found > _EXCESS * count, lambda: _threshold(bits, count), lambda: rough.astype(jnp.uint32)
  )
  return (bits >= threshold).reshape(v.shape)


def dgc(config: DgcConfig, setup: Setup) -> Algorithm:
  """DGC; a round is one step of every partition k, all of which share the weights w:

    g <- -eta clip(grad f(w, b))
    u_k <- m u_k + g;  v_k <- v_k + u_k             (momentum correction)
    S <- |v_k| is among the largest of its tensor, the share 1 - s of them
    send v_k S;  v_k <- v_k not S;  u_k <- u_k not S   (momentum factor masking)
    w <- w + what all partitions sent

  ``theta`` is s. It is the gradient that is clipped, as by Lin et al.; in line 5 of the paper the
  rate is in it already. Weight decay is added to the clipped gradient.
  """
  return residual_algorithm(
    dataclasses.replace(config, clip_norm=config.clip_norm / setup.num_clients**0.5),
    setup,
    largest if config.selection == "exact" else roughly_largest,
    own_models=False,
    clears_momentum=config.momentum_masking and config.momentum > 0,
  )


def stages(rounds: int, sparsities: tuple[float, ...], each: int, final: float) -> np.ndarray:
  """DGC's warm-up: the sparsity rises in stages, and ends at the final one: [rounds] float32.

  Args:
    rounds: of the run.
    sparsities: of the stages; none is above the final one.
    each: rounds of each stage (E_warm); 0 for no warm-up.
    final: s.
  """
  stage = np.arange(rounds) // each if each else np.full(rounds, len(sparsities))
  ladder = np.minimum([*sparsities, final], final)
  return ladder[np.minimum(stage, len(sparsities))].astype(np.float32)


DGC = Method(
  "dgc",
  DgcConfig,
  dgc,
  "Deep gradient compression: partitions share their largest updates.",
  defaults={"lr": 0.01},
  stepwise=True,
  all_clients=True,
  one_process=True,
  theta=Theta(
    lambda config, rounds: stages(rounds, STAGES, config.sparsity_warmup_rounds, config.sparsity),
    grid=STAGES,
    rises=True,
  ),
)
