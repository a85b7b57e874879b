"""``lstm``: a recurrent network that reads an image row by row."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fedjax_norm.models.layers import Conv, Dense, Linear
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.typing import Array


class Recurrence(Linear):
  """The recurrent part of an LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

  With the inputs a_t of the gates at row t, which include biases, and the kernel U [H, 4 H]:

    i, f, g, o = a_t + h_{t-1} U        (in this order, each of size H)
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(c_t)

  starting from h_0 = c_0 = 0.

  Attributes:
    spec: norm of the model. Weight normalization has no data-dependent initialization here, because
      the inputs h_{t-1} of the kernel depend on the kernel.
  """

  spec: NormSpec

  @nn.compact
  def __call__(self, gates: Array, mode: Mode) -> Array:
    """Maps the inputs a of the gates [N, T, 4 H] to the last state h_T [N, H]."""
    hidden = gates.shape[-1] // 4

    def recur(gates: Array, kernel: Array) -> Array:
      def step(carry: tuple[Array, Array], a: Array) -> tuple[tuple[Array, Array], None]:
        h, c = carry
        i, f, g, o = jnp.split(a + h @ kernel, 4, -1)
        # The cell state is float32, because it is a sum over steps.
        c = jax.nn.sigmoid(f) * c + (jax.nn.sigmoid(i) * jnp.tanh(g)).astype(c.dtype)
        h = jax.nn.sigmoid(o) * jnp.tanh(c).astype(a.dtype)
        return (h, c), None

      shape = (len(gates), hidden)
      start = jnp.zeros(shape, gates.dtype), jnp.zeros(shape, jnp.float32)
      # XLA's cost analysis counts the body of a loop once, so the loop is unrolled for it.
      return lax.scan(step, start, gates.swapaxes(0, 1), unroll=mode.count_flops)[0][0]

    orthogonal = nn.initializers.orthogonal(column_axis=-1)
    shape, mode = (hidden, 4 * hidden), mode._replace(data_init=False)
    return self.weighted(gates, shape, recur, self.spec, orthogonal, False, mode)

  def macs(self, x: Array, y: Array) -> int:
    """Returns the number of multiply-adds of the products h_{t-1} U in all steps."""
    return x.size * y.shape[-1]


class LSTM(Staged):
  """An LSTM over the rows of an image: a normalized embedding of each row, an LSTM, a dense layer.

  An image [H, W, C] is a sequence of H steps with W C numbers each. The norm normalizes the
  embeddings [N, H, embedding], with the rows as the spatial axis.

  Attributes:
    embedding: size of a row's embedding.
    hidden: size of the LSTM's state.
  """

  norm: NormSpec
  num_classes: int
  embedding: int = 64
  hidden: int = 64

  def stages(self) -> Sequence[Stage]:
    """Returns the stages embed, lstm, head."""

    def embed(x: Array, mode: Mode) -> Array:
      # A dense layer for each row, written as a convolution, which omits the bias before a norm.
      row = Conv(self.embedding, (1, x.shape[2]), self.norm, padding="VALID", name="embedding")
      x = row(x, mode)[:, :, 0]
      return Norm(self.norm, relu=True, name="embedding_norm")(x, mode)

    def lstm(x: Array, mode: Mode) -> Array:
      gates = Dense(4 * self.hidden, self.norm, name="gates")(x, mode)
      return Recurrence(self.norm, name="recurrence")(gates, mode)

    def head(x: Array, mode: Mode) -> Array:
      return Dense(self.num_classes, self.norm, name="head")(x, mode)

    return ("embed", embed), ("lstm", lstm), ("head", head)
