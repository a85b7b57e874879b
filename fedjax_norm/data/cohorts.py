"""Draws the clients of each round."""

import jax
import jax.numpy as jnp

from fedjax_norm.data.shuffle import permute
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key


def cohorts(key: Key, first_round: Array, rounds: int, num_clients: int, size: int) -> Array:
  """Draws the cohort (clients) of each of several consecutive rounds, without replacement.

  Args:
    key: key of the run; the draw for a round depends only on this key and the round.
    first_round: the first round, int32 scalar.
    rounds: number of rounds, static.
    num_clients: number K of clients, static.
    size: clients per round, static; if it is K, a cohort is all clients in the order of their ids.

  Returns:
    [rounds, size] int32 client ids, one row per round.
  """
  ids = jnp.arange(size, dtype=jnp.int32)
  if size == num_clients:
    return jnp.broadcast_to(ids, (rounds, size))

  cohort_key = stream(key, Stream.COHORT)

  def one(index: Array) -> Array:
    return permute(jax.random.fold_in(cohort_key, first_round + index), ids, num_clients)

  return jax.vmap(one)(jnp.arange(rounds, dtype=jnp.int32))
