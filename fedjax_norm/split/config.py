"""The options of split learning (paper 003) and SplitFed."""

import dataclasses
from typing import Any, Self

from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalStepsConfig
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import option
from fedjax_norm.split.plan import ALICE


@dataclasses.dataclass(frozen=True)
class SplitConfig(LocalStepsConfig):
  """Options of split learning; client, server and relays have separate optimizers.

  Attributes:
    variant: ``split``: clients take turns to train one client part and one server part (paper 003,
      Alg. 2). ``splitfed_v1``: every client trains a copy of both parts, and the copies are
      averaged after a round, which is FedAvg of the cut model. ``splitfed_v2``: clients take turns
      to train one server part and a copy each of the client part, and these copies are averaged
      (Thapa et al. 2022).
  """

  group = "algorithm"

  variant: str = "split"
  cut: str | None = option(
    None,
    "The cut layer: the last stage of the clients' first part of the model. By default it is the "
    "first stage with parameters; python -m experiments.stages lists the stages.",
  )
  tail: str | None = option(
    None,
    "Turns on the U-shape: the last stage of the server. The clients compute the stages after it, "
    "so that labels never leave them. Without it the server has all stages after the cut.",
  )
  relays: str | None = option(
    None,
    "Two or more relays between clients and server: the last stage of each relay, separated by "
    "commas. By default there are no relays.",
  )
  turn_order: str | None = option(
    None,
    "The order in which clients train: fixed (the default), or shuffled anew in every round.",
    choices=("fixed", "shuffled"),
  )
  hand_over: str | None = option(
    None,
    "How a client receives the client part's weights from the previous client: centralised "
    "(through the server) or peer (directly). The default is centralised, or peer with --relays.",
    choices=("centralised", "peer"),
  )
  handed_over: str | None = option(
    None,
    "What a client sends to the next one: weights (the default), or updates: the differences from "
    "the initial weights, which every client computes from the seed (paper 003, sec. 3.4).",
    choices=("weights", "updates"),
  )
  client_momentum: str | None = option(
    None,
    "Momentum of the weights that SplitFed averages: reset to 0 in every round, local (kept on the "
    "client), or global (averaged like the weights). The default is local if all clients take part "
    "in every round, else reset.",
    choices=("reset", "local", "global"),
    needs="momentum",
  )
  autoencoder: float | None = option(
    None,
    "Turns on semi-supervised learning (paper 003, Alg. 3): the weight alpha of the loss of the "
    "clients' autoencoder, relative to the classification loss.",
    above=0,
  )

  def check(self) -> None:
    """Raises ``UserError`` if options contradict each other or would have no effect."""
    if self.variant == "split" and self.client_momentum is not None:
      raise UserError(
        "client_momentum does nothing in split learning, in which clients hand their momentum over "
        "with the weights; drop client_momentum, or use splitfed_v1 or splitfed_v2."
      )
    for name in ("hand_over", "handed_over", "turn_order") if self.single_client else ():
      if getattr(self, name) is not None:
        raise UserError(f"--{name} does nothing here: it needs more than one client; drop it.")
    for name in ("handed_over", "hand_over") if self.variant != "split" else ():
      if getattr(self, name) is not None:
        raise UserError(
          f"{name} does nothing in SplitFed, in which clients receive averaged weights, not those "
          f"of the previous client; drop {name}."
        )
    if self.variant == "splitfed_v1" and self.turn_order is not None:
      raise UserError(
        "splitfed_v1 trains the clients in parallel, so turns have no order; drop turn_order."
      )
    if self.relays and self.variant == "split" and self.hand_over == "centralised":
      raise UserError(
        "relays hide the clients from the server, but hand_over=centralised sends their weights "
        "through the server; use hand_over=peer."
      )
    if self.relays and self.batch_stats == "recalibrate":
      raise UserError(
        "the bytes that relays send while batch_stats=recalibrate recomputes statistics are not "
        "counted; drop relays or choose another batch_stats."
      )
    if self.variant == "split" and self.batch_stats == "moments":
      raise UserError(
        "batch_stats=moments has nothing to average in split learning, in which clients hand their "
        "running statistics over; use batch_stats=local or recalibrate, or a SplitFed variant."
      )

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options with the defaults that depend on the norm and the cohorts filled in."""
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
    """Whether the compiled program depends on the seed, from which the decoder is initialized."""
    return self.autoencoder is not None

  @property
  def single_client(self) -> bool:
    """Whether the run certainly has only one client, which receives no weights from others."""
    return False

  @property
  def default_hand_over(self) -> str:
    """The default of ``hand_over``: ``peer`` with relays, which hide clients from the server."""
    return "peer" if self.relays else "centralised"

  @property
  def relay_stages(self) -> tuple[str, ...]:
    """The last stage of each relay; () without relays."""
    return tuple(self.relays.split(",")) if self.relays is not None else ()

  @property
  def in_turns(self) -> bool:
    """Whether the clients of a round train sequentially, not in parallel."""
    return self.variant != "splitfed_v1"

  def averaged(self, owner: str) -> bool:
    """Whether the weights of a party (``alice``, ``bob``, ...) are averaged after a round."""
    return self.variant == "splitfed_v1" or (self.variant == "splitfed_v2" and owner == ALICE)
