"""What a step costs each party in floating-point operations."""

from typing import NamedTuple

import jax

from fedjax_norm.models.flops import program_flops, step_flops
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.autoencoder import Autoencoder
from fedjax_norm.split.plan import ALICE, BOB, Plan, segment_shapes


class Effort(NamedTuple):
  """The operations that training takes on one example.

  Attributes:
    client: of Alice, for every example: her head, and her decoder.
    client_crossing: of Alice, for those whose activations cross the cut: her tail.
    server: of Bob, for those.
    relays: of all relays together, for those.
  """

  client: float
  client_crossing: float
  server: float
  relays: float


def party_flops(
  model: Staged,
  plan: Plan,
  image: jax.ShapeDtypeStruct,
  batch_size: int,
  autoencoder: Autoencoder | None = None,
) -> Effort:
  """The operations of each party's plain step, divided by its examples.

  Args:
    model: the whole.
    plan: who holds what.
    image: (H, W, C) and the dtype that the model computes in.
    batch_size: examples of a step.
    autoencoder: Alice's, or None.
  """
  total = {"head": 0.0, "tail": 0.0, BOB: 0.0, "relays": 0.0}
  for index, segment in enumerate(plan.segments):
    where = {ALICE: "tail" if index else "head", BOB: BOB}.get(segment.owner, "relays")
    flops = step_flops(
      model, image.shape, segment.begin, segment.end, batch_size, input_gradient=index > 0
    )
    total[where] += flops.training / batch_size
  if autoencoder:
    x = segment_shapes(model, plan, image)[1][0]
    part = jax.eval_shape(lambda: autoencoder.hold(autoencoder.init(jax.random.key(0))))
    shapes = [jax.ShapeDtypeStruct((batch_size, *a.shape), a.dtype) for a in (x, image)]
    mask = jax.ShapeDtypeStruct((batch_size,), "float32")
    rate = jax.ShapeDtypeStruct((), "float32")
    total["head"] += program_flops(autoencoder.decode, part, *shapes, mask, rate) / batch_size
  return Effort(*total.values())
