"""The optimizer of the clients' local steps."""

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.local_training.config import SgdConfig
from fedjax_norm.typing import PyTree


def optimizer(config: SgdConfig) -> optax.GradientTransformation:
  """Returns clipping, weight decay and momentum, or the user-defined optimizer in ``config``.

  The caller multiplies the updates by minus the learning rate. The optimizer's state has the same
  structure with and without clipping and frozen parameters, so that momentum survives when FixBN
  freezes statistics and continues with other options.
  """

  def freeze(updates: PyTree, params: PyTree) -> PyTree:
    del params
    frozen = tree_leaves.pick(updates, config.frozen_paths)
    return tree_leaves.put(updates, jax.tree.map(jnp.zeros_like, frozen))

  frozen = optax.stateless(freeze) if config.frozen_paths else optax.identity()
  if config.optimizer is not None:
    return optax.chain(frozen, config.optimizer, frozen)
  return optax.chain(
    frozen,  # so that frozen parameters do not count towards the norm that is clipped
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
    optax.add_decayed_weights(config.weight_decay) if config.weight_decay else optax.identity(),
    optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity(),
    frozen,  # so that neither weight decay nor earlier momentum moves frozen parameters
  )
