"""The clients' autoencoder, which learns from unlabelled examples too (paper 003, sec. 3.3)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm.local_training import LocalConfig, optimizer
from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode
from fedjax_norm.split.parties import Part
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


class Autoencoder(NamedTuple):
  """The pure functions of a client's autoencoder (paper 003, Alg. 3); X_m is the head's output.

  Attributes:
    init: key -> the decoder's initial variables.
    make_part: variables -> the decoder's :class:`Part`, with a new optimizer state.
    decode: (decoder part, X_m, images, mask, learning rate) -> (decoder part after a step, gradient
      of the loss with respect to X_m, mean loss).
    choose: (X_m, batch) -> (order, X_m, batch): puts the labelled examples first and masks the
      unlabelled ones.
    combine: (server's gradient of the reordered X_m, order, mask, decoder's gradient of X_m) -> the
      total gradient eta of X_m in the original order.
  """

  init: Callable[[Key], Variables]
  make_part: Callable[[Variables], Part]
  decode: Callable[..., tuple[Part, PyTree, Array]]
  choose: Callable[[PyTree, Batch], tuple[Array, PyTree, Batch]]
  combine: Callable[[PyTree, Array, Array, PyTree], PyTree]


def make_autoencoder(
  encoded: jax.ShapeDtypeStruct, image_shape: tuple[int, int, int], local: LocalConfig, alpha: float
) -> Autoencoder:
  """Returns an autoencoder that uses the client's head F_e as its encoder.

  The output X_m of the head goes to the client's decoder F_d and to the server's part F_b. The head
  steps by the sum eta of two gradients with respect to X_m:

    eta = F_b^T(gradient) + alpha F_d^T(gradient_enc)   (eq. 1)

  The autoencoder's loss is the mean square error of the transformed images, over all examples of a
  batch; the classifier's loss is the mean over the labelled examples. The decoder steps by its
  gradient without alpha (Alg. 3, step 14).

  Args:
    encoded: shape of X_m for one example.
    image_shape: (H, W, C).
    local: training options; the decoder has the same optimizer settings as the model.
    alpha: weight of the decoder's gradient in eta.
  """
  decoder, sgd = Decoder(image_shape), optimizer(local)

  def init(key: Key) -> Variables:
    return dict(decoder.init(key, jnp.zeros((1, *encoded.shape), encoded.dtype), Mode()))

  def make_part(variables: Variables) -> Part:
    return Part(variables, sgd.init(variables["params"]))

  def decode(
    part: Part, x: Array, images: Array, mask: Array, rate: Array
  ) -> tuple[Part, PyTree, Array]:
    def loss(params: PyTree, x: Array) -> Array:
      decoded = decoder.apply({"params": params}, x, Mode(train=True))
      errors = ((decoded - images).astype(jnp.float32) ** 2).mean((1, 2, 3))
      return jnp.where(mask > 0, errors, 0.0).sum() / jnp.maximum(mask.sum(), 1)

    params = part.variables["params"]
    value, (grads, x_gradient) = jax.value_and_grad(loss, (0, 1))(params, x)
    updates, opt_state = sgd.update(grads, part.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-rate, updates))
    return Part({"params": params}, opt_state), x_gradient, value

  def choose(x: PyTree, batch: Batch) -> tuple[Array, PyTree, Batch]:
    labelled, labels = batch.mask > 0, batch.labels
    if local.objective == "classification":  # only class labels can be unknown, marked by -1
      labelled, labels = labelled & (labels >= 0), jnp.maximum(labels, 0)
    order = jnp.argsort(~labelled, stable=True)
    mask = labelled[order].astype(batch.mask.dtype)
    return order, jax.tree.map(lambda a: a[order], x), Batch(batch.images, labels[order], mask)

  def combine(gradient: PyTree, order: Array, mask: Array, decoder_gradient: PyTree) -> PyTree:
    def eta(chosen: Array, by_decoder: Array) -> Array:
      real = mask.reshape(-1, *(1,) * (chosen.ndim - 1)) > 0
      by_server = jnp.zeros_like(by_decoder).at[order].set(jnp.where(real, chosen, 0))
      return by_server + (alpha * by_decoder).astype(by_decoder.dtype)

    return jax.tree.map(eta, gradient, decoder_gradient)

  return Autoencoder(init, make_part, decode, choose, combine)
