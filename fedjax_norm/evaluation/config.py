"""What a run tests its model with at evaluations."""

import dataclasses

from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Options):
  """How the model is tested, and what else is measured of the clients."""

  group = "evaluation"

  eval_batch_size: int = option(256, "Test examples of a batch.", least=1)
  evaluate_clients: int = option(
    0,
    "Clients that are tested on their own mix of labels; up to 10 with --fine_tune_steps.",
    least=0,
  )
  fine_tune_steps: int | None = option(
    None,
    "Local steps for which each of them fine-tunes the model on its own data, to be tested beside "
    "the model as it is.",
    least=1,
  )
  fine_tune_lr: float | None = option(
    None,
    "The learning rate of the fine-tuning; --lr if not given.",
    above=0,
    needs="fine_tune_steps",
  )
  diagnostics: bool = option(
    False,
    "Whether evaluations also measure how far the clients' data, models and updates are apart "
    "(paper 004), in diagnostics.csv and a picture.",
  )
  diagnostics_layer: str | None = option(
    None,
    "The position of a norm whose channels are told one by one; the first if not given.",
    needs="diagnostics",
  )
  diagnostics_batches: int = option(
    100, "Minibatches of a client whose moments are averaged.", least=1, needs="diagnostics"
  )
