"""The options of split learning (paper 003) and SplitFed."""

import dataclasses
from typing import Any, Self

from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalStepsConfig
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import option
from fedjax_norm.split.plan import ALICE

VARIANTS = ("split", "splitfed_v1", "splitfed_v2")


@dataclasses.dataclass(frozen=True)
class SplitConfig(LocalStepsConfig):
  """Options of split learning; each party's optimizer is its own.

  Attributes:
    variant: ``split``: clients take turns with one client part and one server part (Alg. 2).
      ``splitfed_v1``: every client has a copy of both in a round, and both are averaged after it,
      which makes it FedAvg of the cut model. ``splitfed_v2``: Bob keeps one part that sees the
      clients one after another, and client parts are averaged (Thapa et al. 2022).
  """

  group = "algorithm"

  variant: str = "split"
  cut: str | None = option(
    None,
    "The last stage of the model that a client holds, the first with parameters by default; python "
    "-m experiments.stages lists them.",
  )
  tail: str | None = option(
    None,
    "The U-shape without label sharing: the last stage of the server; the stages after it are the "
    "client's again.",
  )
  relays: str | None = option(
    None, "Two or more relays between client and server: the last stage of each, with commas."
  )
  turn_order: str | None = option(
    None,
    "The order of the clients' turns in a round: fixed (the default), or shuffled in every round.",
    choices=("fixed", "shuffled"),
  )
  hand_over: str | None = option(
    None,
    "How a client gets the weights of the client before: through the server (centralised) or from "
    "that client (peer). The default is centralised, with --relays peer.",
    choices=("centralised", "peer"),
  )
  handed_over: str | None = option(
    None,
    "What it gets: the weights (the default), or the updates of weights that a seed gives (sec. "
    "3.4).",
    choices=("weights", "updates"),
  )
  client_momentum: str | None = option(
    None,
    "What becomes of the momentum of parts that SplitFed averages: it is reset in each turn, stays "
    "on the client (local), or is averaged too (global). The default is local if all clients take "
    "part in each round, else reset.",
    choices=("reset", "local", "global"),
    needs="momentum",
  )
  autoencoder: float | None = option(
    None,
    "Semi-supervised learning (Alg. 3): alpha, the weight of the loss of the clients' autoencoder.",
    above=0,
  )

  def check(self):
    """Refuses options that contradict each other or would do nothing."""
    if self.variant == "split" and self.client_momentum is not None:
      raise UserError(
        "clients that take turns hand their momentum over with their part, so client_momentum does "
        "nothing; drop it or use a SplitFed variant."
      )
    for name in ("hand_over", "handed_over", "turn_order") if self.alone else ():
      if getattr(self, name) is not None:
        raise UserError(f"--{name} does nothing here: it needs more than one client; drop it.")
    if self.variant != "split" and self.handed_over is not None:
      raise UserError("in SplitFed clients get averages, not updates of a seed; drop handed_over.")
    if self.variant != "split" and self.hand_over is not None:
      raise UserError("in SplitFed clients get averages, not a hand-over; drop hand_over.")
    if self.variant == "splitfed_v1" and self.turn_order is not None:
      raise UserError(
        "in splitfed_v1 all clients go at once, so turns have no order; drop turn_order."
      )
    if self.relays and self.variant == "split" and self.hand_over == "centralised":
      raise UserError(
        "relays hide clients from the server, which a hand-over through it would name; use "
        "hand_over=peer."
      )
    if self.relays and self.batch_stats == "recalibrate":
      raise UserError(
        "the ledger has no place for what relays send while statistics are recomputed; drop "
        "batch_stats=recalibrate or the relays."
      )
    if self.variant == "split" and self.batch_stats == "moments":
      raise UserError(
        "clients that take turns hand their statistics over, so there is nothing to average; drop "
        "batch_stats=moments, or use local, recalibrate or a SplitFed variant."
      )

  def in_force(self, spec: NormSpec, all_clients: bool) -> Self:
    """The options in force."""
    filled: dict[str, Any] = {}
    if not self.alone:
      if self.in_turns:
        filled["turn_order"] = self.turn_order or "fixed"
      if self.variant == "split":
        filled["hand_over"] = self.hand_over or self.hand_over_by_default
        filled["handed_over"] = self.handed_over or "weights"
    if self.variant != "split" and self.momentum:
      filled["client_momentum"] = self.client_momentum or ("local" if all_clients else "reset")
    return dataclasses.replace(super().in_force(spec, all_clients), **filled)

  @property
  def of_a_seed(self) -> bool:
    """Whether the compiled program depends on the seed: a decoder starts from it."""
    return self.autoencoder is not None

  @property
  def alone(self) -> bool:
    """Whether there is only one client for sure, so that nothing is handed over."""
    return False

  @property
  def hand_over_by_default(self) -> str:
    """How a client gets the weights where it is not said; relays hide clients from the server."""
    return "peer" if self.relays else "centralised"

  @property
  def relay_stages(self) -> tuple[str, ...]:
    """The last stage of each relay."""
    return tuple(self.relays.split(",")) if self.relays is not None else ()

  @property
  def in_turns(self) -> bool:
    """Whether some part of the model goes from client to client within a round."""
    return self.variant != "splitfed_v1"

  def averaged(self, owner: str) -> bool:
    """Whether a party's parts are averaged after a round, rather than carried on."""
    return self.variant == "splitfed_v1" or (self.variant == "splitfed_v2" and owner == ALICE)
