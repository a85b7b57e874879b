"""The options of split learning (paper 003) and SplitFed."""

import dataclasses
from typing import Any, Self

from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalStepsConfig
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import option
from fedjax_norm.split.plan import ALICE

VARIANTS = ("split", "splitfed_v1", "splitfed_v2")


@dataclasses.dataclass(frozen=True)
class SplitConfig(LocalStepsConfig):
  """Options of split learning; every party has a separate optimizer.

  Attributes:
    variant: ``split``: clients take turns with one client part and one server part (Alg. 2).
      ``splitfed_v1``: every client trains a copy of both parts, and both are averaged after the
      round, which is FedAvg of the cut model. ``splitfed_v2``: the clients train sequentially with
      one server part, and the client parts are averaged (Thapa et al. 2022).
  """

  group = "algorithm"

  variant: str = "split"
  cut: str | None = option(
    None,
    "The last stage in the clients' first part of the model; by default the first stage with "
    "parameters. python -m experiments.stages lists the stages.",
  )
  tail: str | None = option(
    None,
    "The last stage of the server in the U-shape; the clients hold the stages after it, so that "
    "labels never leave them.",
  )
  relays: str | None = option(
    None, "The last stage of each relay between client and server, two or more, with commas."
  )
  turn_order: str | None = option(
    None,
    "The order of the clients' turns: fixed (the default), or shuffled in every round.",
    choices=("fixed", "shuffled"),
  )
  hand_over: str | None = option(
    None,
    "The way of a hand-over, in which a client receives the weights of the previous client: "
    "through the server (centralised) or directly (peer). The default is centralised, or peer with "
    "--relays.",
    choices=("centralised", "peer"),
  )
  handed_over: str | None = option(
    None,
    "The content of a hand-over: weights (the default), or updates: their difference from the "
    "initial weights, which every client computes from the seed (sec. 3.4).",
    choices=("weights", "updates"),
  )
  client_momentum: str | None = option(
    None,
    "Momentum of the parts that SplitFed averages: reset in every turn, local (stays on the "
    "client), or global (averaged like the weights). The default is local if all clients take part "
    "in every round, else reset.",
    choices=("reset", "local", "global"),
    needs="momentum",
  )
  autoencoder: float | None = option(
    None,
    "Semi-supervised learning (Alg. 3): the weight alpha of the clients' reconstruction loss.",
    above=0,
  )

  def check(self) -> None:
    """Raises ``UserError`` if options contradict each other or would have no effect."""
    if self.variant == "split" and self.client_momentum is not None:
      raise UserError(
        "clients that take turns hand their momentum over with their part, so client_momentum does "
        "nothing; drop it or use a SplitFed variant."
      )
    for name in ("hand_over", "handed_over", "turn_order") if self.single_client else ():
      if getattr(self, name) is not None:
        raise UserError(f"--{name} does nothing here: it needs more than one client; drop it.")
    if self.variant != "split" and self.handed_over is not None:
      raise UserError(
        "SplitFed clients receive averages, not updates relative to a seed; drop handed_over."
      )
    if self.variant != "split" and self.hand_over is not None:
      raise UserError("SplitFed clients receive averages, not hand-overs; drop hand_over.")
    if self.variant == "splitfed_v1" and self.turn_order is not None:
      raise UserError(
        "splitfed_v1 trains the clients in parallel, so turns have no order; drop turn_order."
      )
    if self.relays and self.variant == "split" and self.hand_over == "centralised":
      raise UserError(
        "relays hide the clients from the server, but a hand-over through it would identify them; "
        "use hand_over=peer."
      )
    if self.relays and self.batch_stats == "recalibrate":
      raise UserError(
        "the ledger does not count what relays send while statistics are recomputed; drop "
        "batch_stats=recalibrate or the relays."
      )
    if self.variant == "split" and self.batch_stats == "moments":
      raise UserError(
        "clients that take turns hand their statistics over, so there is nothing to average; drop "
        "batch_stats=moments, or use local, recalibrate or a SplitFed variant."
      )

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options with the defaults that depend on the norm and the cohort filled in."""
    filled: dict[str, Any] = {}
    if not self.single_client:
      if self.in_turns:
        filled["turn_order"] = self.turn_order or "fixed"
      if self.variant == "split":
        filled["hand_over"] = self.hand_over or self.default_hand_over
        filled["handed_over"] = self.handed_over or "weights"
    if self.variant != "split" and self.momentum:
      filled["client_momentum"] = self.client_momentum or ("local" if all_clients else "reset")
    return dataclasses.replace(super().fill_defaults(spec, all_clients), **filled)

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the seed, from which a decoder is initialized."""
    return self.autoencoder is not None

  @property
  def single_client(self) -> bool:
    """Whether there is certainly only one client, so that no weights are handed over."""
    return False

  @property
  def default_hand_over(self) -> str:
    """The default of ``hand_over``; with relays, which hide clients from the server, ``peer``."""
    return "peer" if self.relays else "centralised"

  @property
  def relay_stages(self) -> tuple[str, ...]:
    """The last stage of each relay."""
    return tuple(self.relays.split(",")) if self.relays is not None else ()

  @property
  def in_turns(self) -> bool:
    """Whether the clients of a round train sequentially."""
    return self.variant != "splitfed_v1"

  def averaged(self, owner: str) -> bool:
    """Whether the parts of a party (``alice``, ``bob``, ...) are averaged after a round."""
    return self.variant == "splitfed_v1" or (self.variant == "splitfed_v2" and owner == ALICE)
