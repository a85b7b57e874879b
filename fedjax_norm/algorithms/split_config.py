"""The options of split learning (paper 003) and SplitFed."""

import dataclasses

from fedjax_norm.algorithms.options import check_choices, check_local_length
from fedjax_norm.algorithms.statistics import POLICIES
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig
from fedjax_norm.split.plan import ALICE

VARIANTS = ("split", "splitfed_v1", "splitfed_v2")
HAND_OVERS = ("centralised", "peer")
HANDED_OVER = ("weights", "updates")
MOMENTA = ("reset", "local", "global")
TURN_ORDERS = ("fixed", "shuffled")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
  """What split learning does; everything here is compiled in.

  Attributes:
    local: a step's batch and SGD; each party's optimizer is its own.
    cut: the last stage of Alice's head F_a; None is the first with parameters.
    tail: the last stage of Bob's body in the U-shape; None leaves the end of the model to him.
    relays: the last stage of each relay between Alice and Bob.
    variant: ``split``: clients take turns with one client part and one server part (Alg. 2).
      ``splitfed_v1``: every client has a copy of both in a round, and both are averaged after it,
      which makes it FedAvg of the cut model. ``splitfed_v2``: Bob keeps one part that sees the
      clients one after another, and client parts are averaged (Thapa et al. 2022).
    local_steps: steps of a client's turn; 1 when ``local_epochs`` is not given either.
    local_epochs: passes over the client's data in a turn, instead.
    turn_order: of the clients in a round: ``fixed``, or ``shuffled`` anew every round.
    hand_over: how the client part of the last Alice reaches the next: through a weight server
      (``centralised``), or from client to client (``peer``).
    handed_over: ``weights``, or the ``updates`` that have been added to those of a seed, which
      travels once to every client (sec. 3.4).
    client_momentum: of averaged parts: ``reset`` in each turn, kept for each client (``local``), or
      averaged too (``global``). What is not averaged keeps its momentum from turn to turn.
    batch_stats: of averaged parts as in FedAvg. ``local`` leaves the statistics of Alice's stages
      with the client in any variant. ``recalibrate`` recomputes all of them.
    alpha: the weight of Alice's autoencoder (eq. 1); None does without one.
  """

  local: LocalConfig = dataclasses.field(default_factory=LocalConfig)
  cut: str | None = None
  tail: str | None = None
  relays: tuple[str, ...] = ()
  variant: str = "split"
  local_steps: int | None = None
  local_epochs: int | None = None
  turn_order: str = "fixed"
  hand_over: str = "centralised"
  handed_over: str = "weights"
  client_momentum: str = "reset"
  batch_stats: str = "mean"
  alpha: float | None = None

  def __post_init__(self):
    check_choices(
      self,
      variant=VARIANTS,
      turn_order=TURN_ORDERS,
      hand_over=HAND_OVERS,
      handed_over=HANDED_OVER,
      client_momentum=MOMENTA,
      batch_stats=POLICIES,
    )
    check_local_length(self.local_steps, self.local_epochs)
    if self.alpha is not None and not self.alpha > 0:
      raise UserError(f"alpha is {self.alpha}; the autoencoder's weight must be positive.")
    if self.variant == "split" and self.client_momentum != "reset":
      raise UserError(
        "clients that take turns hand their momentum over with their part, so client_momentum does "
        "nothing; drop it or use a SplitFed variant."
      )
    if self.variant != "split" and self.handed_over != "weights":
      raise UserError("in SplitFed clients get averages, not updates of a seed; drop handed_over.")
    if self.client_momentum != "reset" and not self.local.momentum:
      raise UserError(
        f"client_momentum={self.client_momentum} keeps a momentum that is 0; set momentum too."
      )
    if self.variant == "splitfed_v1" and self.turn_order != "fixed":
      raise UserError("in splitfed_v1 all clients go at once, so turns have no order; drop it.")
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

  @property
  def in_turns(self) -> bool:
    """Whether some part of the model goes from client to client within a round."""
    return self.variant != "splitfed_v1"

  def averaged(self, owner: str) -> bool:
    """Whether a party's parts are averaged after a round, rather than carried on."""
    return self.variant == "splitfed_v1" or (self.variant == "splitfed_v2" and owner == ALICE)
