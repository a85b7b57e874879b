"""Options of the evaluations of a run."""

import dataclasses

from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Options):
  """How the model is tested, and what is measured per client."""

  group = "evaluation"

  eval_batch_size: int = option(256, "Number of examples per test batch.", least=1)
  evaluate_clients: int = option(
    0,
    "Number of clients whose accuracy is also reported, as the test accuracy weighted by each "
    "client's label shares; 0 by default, or up to 10 with --fine_tune_steps.",
    least=0,
  )
  fine_tune_steps: int | None = option(
    None,
    "Number of local steps with which the evaluated clients fine-tune the model on their training "
    "data before they are tested again; no fine-tuning by default.",
    least=1,
  )
  fine_tune_lr: float | None = option(
    None, "Learning rate of --fine_tune_steps; --lr by default.", above=0, needs="fine_tune_steps"
  )
  diagnostics: bool = option(
    False,
    "Whether evaluations also measure how much the clients' data, models and updates differ "
    "(paper 004); the results go to diagnostics.csv and a plot.",
  )
  diagnostics_layer: str | None = option(
    None,
    "Norm layer for which --diagnostics reports every channel; by default the first one.",
    needs="diagnostics",
  )
  diagnostics_batches: int = option(
    100,
    "Number of minibatches per client over which --diagnostics averages means and variances.",
    least=1,
    needs="diagnostics",
  )
