"""Options of the evaluations of a run."""

import dataclasses

from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Options):
  """Options of tests: batches, tests and fine-tuning of single clients, and diagnostics."""

  group = "evaluation"

  eval_batch_size: int = option(256, "Number of examples per test batch.", least=1)
  evaluate_clients: int = option(
    0,
    "Number of clients for which an accuracy is reported: on the client's own test examples if the "
    "data names their clients and --partition=natural, otherwise the test accuracy by class, "
    "weighted by the client's label shares; 0 by default, or up to 10 with --fine_tune_steps.",
    least=0,
  )
  average_last: int = option(
    5,
    "Number of the last evaluations whose mean is reported beside the last one (mean_... in "
    "summary.json).",
    least=1,
  )
  fine_tune_steps: int | None = option(
    None,
    "Number of local steps for which the clients of --evaluate_clients fine-tune the model on "
    "their training data, to test it again; no fine-tuning by default.",
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
    "Path of the norm layer for which --diagnostics reports each channel; by default the first.",
    needs="diagnostics",
  )
  diagnostics_batches: int = option(
    100,
    "Number of minibatches per client over which --diagnostics averages means and variances.",
    least=1,
    needs="diagnostics",
  )
