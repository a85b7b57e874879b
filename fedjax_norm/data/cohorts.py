"""Draws the clients of each round."""

import jax
import jax.numpy as jnp

from fedjax_norm.data.shuffle import permute
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key


def cohorts(key: Key, first_round: Array, rounds: int, num_clients: int, size: int) -> Array:
  """Draws the cohorts of some rounds, each without replacement.

  Args:
    key: key of the run; a cohort depends on this key and its round alone.
    first_round: int32 scalar.
    rounds: number of rounds, static.
    num_clients: K, static.
    size: clients per round, static; if it is K, a cohort is all clients in the order of their ids.

  Returns:
    [rounds, size] int32 client ids.
  """
  ids = jnp.arange(size, dtype=jnp.int32)
  if size == num_clients:
    return jnp.broadcast_to(ids, (rounds, size))

  cohort_key = stream(key, Stream.COHORT)

  def one(index: Array) -> Array:
    return permute(jax.random.fold_in(cohort_key, first_round + index), ids, num_clients)

  return jax.vmap(one)(jnp.arange(rounds, dtype=jnp.int32))
