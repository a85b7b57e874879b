"""The options of a study: what is compared, how long it may take, and how contenders are ranked."""

import dataclasses
import re
from typing import Any

from fedjax_norm import options
from fedjax_norm.cli.config import Config
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.options import Options, option
from fedjax_norm.study.planning import axes

SCORES = ("best", "last", "mean")

BUDGET = "5m"
"""The time for a study by default."""

AXES = ("norms", "algorithms", "local_steps", "partitions", "seeds")
"""The options that may grow when a study goes on in its folder."""

FREE = ("workdir", "workers", "dry_run", "target", "progress", "compilation_cache")
"""The options that change no run, so that they may differ when a study goes on."""

# Options of single runs that the study chooses, or that make no sense for several runs.
_CHOSEN: tuple[str, ...] = ("norm", "partition", "lr", "rounds", "eval_every", "resume")
_CHOSEN += ("wait_for_workdir", "coordinator_address", "num_processes", "process_id")

# Options that change no result, but that the plan passes to the runs, so that they cannot change.
_PLANNED = ("wandb", "wandb_project", "data_on")


@dataclasses.dataclass(frozen=True)
class StudyOptions(Options):
  """The options that only a study has."""

  group = "study"

  norms: str = option(
    "bn,gn,fixbn",
    "Norms to compare: values of --norm, separated by commas, and fedbn (bn, whose parameters and "
    "statistics stay on the client) or silobn (bn, whose statistics stay on the client). Options "
    "follow a colon: gn:groups=8,bn.",
  )
  algorithms: str = option(
    "fedavg,scaffold",
    "Algorithms to compare: values of --method of experiments.run, separated by commas. Options "
    "follow a colon: fedavg,gaia:threshold=0.1. An algorithm with local_steps=N "
    "is not combined with --local_steps.",
  )
  local_steps: str = option(
    "1,10",
    "Numbers of local steps of a client per round, separated by commas, for each algorithm that "
    "has this option.",
  )
  partitions: str | None = option(
    None,
    "Settings, each with its own ranking: values of --partition of experiments.run, separated by "
    "commas, as in dirichlet:alpha=0.1,iid. By default natural if the data names clients, "
    "otherwise classes.",
  )
  lrs: str = option(
    "auto",
    "Learning rates that are tried for each contender, separated by commas; a single one is used "
    "without a search. auto searches by successive halving on the validation examples: 0.003, "
    "0.01, 0.03, 0.1 and 0.3 for a quarter of the local steps of a final run, then the best two "
    "for half of them, and at least for four rounds; if the best rate is the lowest or the "
    "highest, up to two more rates beyond it are tried before. The final runs of all seeds use the "
    "best rate.",
  )
  budget: str | None = option(
    None,
    "Time for the whole study, such as 90s, 5m or 2h; by default 5m. It is turned into the number "
    "of local steps of a final run, the same for all contenders, when the study starts. If the "
    "fewest that make sense take somewhat longer, the study says so and runs them.",
  )
  steps: int | None = option(
    None, "Number of local steps of a client in a final run, instead of --budget.", least=1
  )
  measure: str | None = option(
    None,
    "Measure by which contenders are ranked and rates are chosen, such as top1 or "
    "balanced_accuracy; by default the first measure of the task (top1 for classification).",
  )
  score: str = option(
    "best",
    "How the values of a run become its score: the test value at the round with the best "
    "validation value (best), the last value (last), or the mean of the last --average_last values "
    "(mean).",
    choices=SCORES,
  )
  target: float | None = option(
    None,
    "Value of --measure to which bytes and simulated time are counted; by default one point below "
    "the best score of the first algorithm.",
  )
  workers: int | None = option(
    None,
    "Number of processes that train contenders side by side; by default one per CPU core, and one "
    "on accelerators.",
    least=1,
    most=1024,
  )
  dry_run: bool = option(
    False, "Whether to print only the contenders and the expected time, and to train nothing."
  )

  def check(self) -> None:
    """Raises a UserError if a list or a duration cannot be read."""
    for name in ("norms", "algorithms", "partitions"):
      if (text := getattr(self, name)) is not None:
        axes.parse(text, f"--{name}")
    axes.parse_steps(self.local_steps)
    axes.parse_rates(self.lrs)
    duration(self.budget or BUDGET)
    if self.budget is not None and self.steps is not None:
      raise UserError("--steps sets the effort instead of --budget; drop one of the two.")
    known = ["loss", *MEASURES]
    if self.measure is not None and self.measure not in known:
      raise UserError(f"--measure is {self.measure!r}; choose one of {', '.join(known)}.")


@dataclasses.dataclass(frozen=True)
class StudyConfig(StudyOptions, Config):
  """The options of a study and the options that all of its runs share.

  The options of runs are checked with each contender, because many have an effect only on some.
  """

  hidden = _CHOSEN

  seeds: int = option(
    3, "Number of final runs of each contender, with consecutive seeds from --seed on.", least=1
  )
  validation_share: float | None = option(
    0.15,
    "Share of each client's training examples that is held out to choose learning rates and the "
    "best round; the test set is never used for that.",
    above=0,
    below=1,
  )
  wandb: bool = option(
    False,
    "Whether to log the final runs to Weights & Biases, too; needs the package wandb and an "
    "account, or the environment variable WANDB_MODE=offline.",
  )
  evaluate_clients: int | None = option(  # type: ignore[assignment]
    None, "Number of clients for which an accuracy is reported; by default up to 20.", least=0
  )

  def __post_init__(self) -> None:
    names = [one.name for one in options.of(StudyOptions)]
    StudyOptions(**{name: getattr(self, name) for name in names})
    if self.seeds < 1:
      raise UserError(f"--seeds is {self.seeds}; it must be at least 1.")
    for name in ("freeze_round", "lr_warmup_rounds"):
      axes.refuse_rounds(name, getattr(self, name))
    axes.refuse_rounds("lr_boundaries", *self.lr_boundaries)

  def given(self) -> dict[str, Any]:
    """Returns name -> value of the options of runs that differ from their defaults."""
    own = {one.name for one in options.of(StudyOptions)} | {*AXES, *FREE, *_CHOSEN, "seed"}
    return {
      one.name: getattr(self, one.name)
      for one in options.of(Config)
      if one.name not in own and getattr(self, one.name) not in (None, one.default)
    }

  def saved(self) -> dict[str, Any]:
    """Returns the options that ``study.json`` records."""
    values = {k: v for k, v in super().saved().items() if k not in (*FREE, "algorithm")}
    values["budget"] = self.budget or BUDGET
    return values | {name: getattr(self, name) for name in _PLANNED}


def _without_needs(kind: type) -> list[tuple[str, Any, Any]]:
  """Returns the fields of options that need others, without this condition."""
  return [
    (one.name, one.type, dataclasses.field(default=one.default, metadata={**meta, "needs": None}))
    for one in dataclasses.fields(kind)
    if (meta := one.metadata).get("needs")
  ]


FLAGS: Any = dataclasses.make_dataclass(
  "StudyConfig", _without_needs(StudyConfig), bases=(StudyConfig,), frozen=True
)
"""The class of the binary's flags: a StudyConfig that accepts options only some contenders use."""


def duration(text: str) -> float:
  """Returns the seconds of a duration such as 90s, 5m or 2h.

  Raises:
    UserError: the text is no duration.
  """
  match = re.fullmatch(r"([0-9]+\.?[0-9]*)(s|m|h)", text)
  if not match or not float(match[1]):
    raise UserError(f"--budget is {text!r}; give a number of seconds, minutes or hours as in 5m.")
  return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
