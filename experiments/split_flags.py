"""The flags of ``experiments.split``, and what its options are made of."""

import dataclasses
from collections.abc import Collection
from typing import ClassVar

from experiments.algorithm_flags import TurnFlags
from experiments.build_algorithms import make_local
from experiments.checks import refuse
from fedjax_norm.algorithms import split_config
from fedjax_norm.algorithms.split_config import SplitConfig
from fedjax_norm.errors import UserError
from fedjax_norm.models.ensemble import STAGES
from fedjax_norm.options import option
from fedjax_norm.split.members import read


@dataclasses.dataclass(frozen=True)
class SplitFlags(TurnFlags):
  """What a run of split learning is told besides."""

  several_processes = False
  # A batch crosses the cut as a whole, and no client has the whole model to train it further.
  hidden: ClassVar[Collection[str]] = ("accumulate", "fine_tune_steps", "fine_tune_lr")

  algorithm: str = option(
    "split",
    "split: clients take turns (paper 003, Alg. 2); splitfed_v1: side by side, the client and "
    "server parts averaged after a round; splitfed_v2: in turns, the client parts averaged.",
    choices=split_config.VARIANTS,
  )
  cut: str | None = option(
    None,
    "The last stage of the model that a client holds, the first with parameters by default; python "
    "-m experiments.stages lists them.",
  )
  tail: str | None = option(
    None,
    "The U-shape without label sharing: the last stage of the server; those after it are the "
    "client's again.",
  )
  relays: str | None = option(
    None, "Two or more relays between client and server: the last stage of each, with commas."
  )
  members: str | None = option(  # type: ignore[misc]
    None,
    "An ensemble that trains in one exchange and votes, in place of --model: MODEL:CUT of each "
    "member with commas, as in tiny:conv1,lenet:conv1, or MODEL:CUT:TAIL in the U-shape.",
  )
  turn_order: str | None = option(
    None,
    "Of the clients in a round: fixed (default) or shuffled anew.",
    choices=split_config.TURN_ORDERS,
  )
  hand_over: str | None = option(
    None,
    "How a client gets the weights of the one before: through the server (centralised, default) or "
    "from it (peer; with --relays always).",
    choices=split_config.HAND_OVERS,
  )
  handed_over: str | None = option(
    None,
    "What it gets: the weights (default), or updates of those that a seed gives (sec. 3.4).",
    choices=split_config.HANDED_OVER,
  )
  client_momentum: str | None = option(
    None,
    "Of parts that are averaged in SplitFed; local by default if all take part, else reset.",
    choices=split_config.MOMENTA,
  )
  autoencoder: float | None = option(
    None, "Semi-supervised learning (Alg. 3): alpha, the weight of the clients' autoencoder."
  )
  labelled: float | None = option(  # type: ignore[misc]
    None,
    "With --autoencoder: the share of the training examples whose labels are known; 1 by default.",
  )
  step_by_step: bool = option(
    False,
    "Whether every party is compiled by itself and each message is an object: slower, and listed "
    "in messages.csv.",
  )

  @property
  def one_device(self) -> bool:
    """Whether clients run one after another."""
    return self.step_by_step or self.algorithm != "splitfed_v1"

  @property
  def model_name(self) -> str:
    """The members' names, of an ensemble."""
    if self.members is None:
      return self.model
    return "+".join(member.partition(":")[0] for member in self.members.split(","))


_AVERAGED, _HANDED = ("client_momentum",), ("hand_over", "handed_over")


def make_split_config(config: SplitFlags) -> SplitConfig:
  """The options of split learning.

  Raises:
    UserError: a flag that would do nothing, or that means nothing here.
  """
  if config.algorithm == "split":
    refuse(config, _AVERAGED, "--algorithm=splitfed_v1 or splitfed_v2")
  else:
    refuse(config, _HANDED, "--algorithm=split")
    if not config.momentum:
      refuse(config, _AVERAGED, "--momentum above 0")
  if config.algorithm == "splitfed_v1":
    refuse(config, ("turn_order",), "--algorithm=split or splitfed_v2")
  if config.clients == 1:
    refuse(config, (*_HANDED, "turn_order"), "more than one client")
  if config.autoencoder is None:
    refuse(config, ("labelled",), "--autoencoder")
  elif config.autoencoder <= 0:
    raise UserError(
      f"--autoencoder is {config.autoencoder:g}, and the weight of its loss must be positive; drop "
      "it to train without one."
    )
  local, tail = make_local(config), config.tail
  if config.members is not None:
    if config.model != SplitFlags.model:
      raise UserError(f"--members names the models itself; drop --model={config.model}.")
    refuse(config, ("cut", "tail"), "--model, as --members says where each member is cut")
    refuse(config, ("relays",), "--model, as relays hold the stages of one model")
    refuse(config, ("autoencoder",), "--model, as its decoder reads one tensor")
    local = dataclasses.replace(local, objective="ensemble")
    if read(config.members, config.make_norm(config.rounds))[0].tail is not None:
      tail = STAGES[1]
  kept = "local" if config.momentum and config.cohort is None else "reset"
  momentum = config.client_momentum or ("reset" if config.algorithm == "split" else kept)
  return SplitConfig(
    local=local,
    cut=config.cut,
    tail=tail,
    relays=tuple(config.relays.split(",")) if config.relays is not None else (),
    variant=config.algorithm,
    local_steps=config.local_steps,
    local_epochs=config.local_epochs,
    turn_order=config.turn_order or "fixed",
    hand_over=config.hand_over or ("peer" if config.relays is not None else "centralised"),
    handed_over=config.handed_over or "weights",
    client_momentum=momentum,
    batch_stats=config.batch_stats or "mean",
    alpha=config.autoencoder,
  )
