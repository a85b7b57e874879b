"""Alice's decoder, and examples without labels (paper 003, sec. 3.3, Alg. 3)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm.local import LocalConfig, optimizer
from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode
from fedjax_norm.split.parties import Part
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


class Autoencoder(NamedTuple):
  """What Alice does beside encoding, as pure functions.

  Attributes:
    init: key -> the decoder's variables.
    hold: variables -> its :class:`Part`.
    decode: (part, X_m, images, mask, rate) -> (part, gradient of X_m, mean loss).
    choose: (X_m, batch) -> (places, X_m, batch): the labelled examples first, in their order, the
      others masked.
    combine: (gradient of the chosen, places, their mask, the decoder's gradient) -> eta.
  """

  init: Callable[[Key], Variables]
  hold: Callable[[Variables], Part]
  decode: Callable[..., tuple[Part, PyTree, Array]]
  choose: Callable[[PyTree, Batch], tuple[Array, PyTree, Batch]]
  combine: Callable[[PyTree, Array, Array, PyTree], PyTree]


def make_autoencoder(
  encoded: jax.ShapeDtypeStruct, image_shape: tuple[int, int, int], local: LocalConfig, alpha: float
) -> Autoencoder:
  """The encoder is Alice's head F_e, whose output X_m goes to the decoder F_d and to Bob's F_b.

    eta = F_b^T(gradient) + alpha F_d^T(gradient_enc)   (eq. 1)

  The loss of the autoencoder is the mean square error of the images as the model sees them, over
  all of a batch's examples; the classifier's is the mean over the labelled ones. The decoder itself
  steps by its own gradient, without alpha (step 14).

  Args:
    encoded: X_m of one example.
    image_shape: (H, W, C).
    local: the settings of training; the decoder's optimizer is as the others'.
    alpha: the weight of the autoencoder.
  """
  decoder, sgd = Decoder(image_shape), optimizer(local)

  def init(key: Key) -> Variables:
    return dict(decoder.init(key, jnp.zeros((1, *encoded.shape), encoded.dtype), Mode()))

  def hold(variables: Variables) -> Part:
    return Part(variables, sgd.init(variables["params"]))

  def decode(part: Part, x: Array, images: Array, mask: Array, rate: Array):
    def loss(params: PyTree, x: Array) -> Array:
      decoded = decoder.apply({"params": params}, x, Mode(train=True))
      errors = ((decoded - images).astype(jnp.float32) ** 2).mean((1, 2, 3))
      return jnp.where(mask > 0, errors, 0.0).sum() / jnp.maximum(mask.sum(), 1)

    params = part.variables["params"]
    value, (grads, of_x) = jax.value_and_grad(loss, (0, 1))(params, x)
    updates, opt_state = sgd.update(grads, part.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-rate, updates))
    return Part({"params": params}, opt_state), of_x, value

  def choose(x: PyTree, batch: Batch):
    labelled, labels = batch.mask > 0, batch.labels
    if local.objective == "classification":  # numbers and masks are never hidden
      labelled, labels = labelled & (labels >= 0), jnp.maximum(labels, 0)
    places = jnp.argsort(~labelled, stable=True)
    mask = labelled[places].astype(batch.mask.dtype)
    return places, jax.tree.map(lambda a: a[places], x), Batch(batch.images, labels[places], mask)

  def combine(gradient: PyTree, places: Array, mask: Array, own: PyTree) -> PyTree:
    def eta(chosen: Array, own: Array) -> Array:
      real = mask.reshape(-1, *(1,) * (chosen.ndim - 1)) > 0
      spread = jnp.zeros_like(own).at[places].set(jnp.where(real, chosen, 0))
      return spread + (alpha * own).astype(own.dtype)

    return jax.tree.map(eta, gradient, own)

  return Autoencoder(init, hold, decode, choose, combine)
