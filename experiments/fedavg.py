"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

The defaults are the hardest case: digits, ten clients that hold one class each, one local step of
SGD a round. ``--help`` lists the flags; ``--flagfile=experiments/presets/NAME.flags`` is a preset.
"""

from pathlib import Path
from typing import Any

from experiments import app, build, report
from experiments.flags import Config
from fedjax_norm.errors import UserError
from fedjax_norm.training.fedavg import initial_variables, make_fedavg
from fedjax_norm.training.loop import Program, summary, train
from fedjax_norm.training.run_folder import RunFolder, write_json


def main(config: Config) -> None:
  """Runs FedAvg with one seed or several."""
  if config.seeds < 1:
    raise UserError(f"--seeds is {config.seeds}; it must be at least 1.")
  algorithm, schedule = build.make_algorithm(config), build.make_schedule(config)
  freeze, loop = build.make_freeze(config), build.make_loop(config, config.seed)
  source = build.make_source(config)
  path = app.new_folder(config, "fedavg")
  program: Program | None = None
  summaries: dict[int, dict[str, Any]] = {}
  for seed in range(config.seed, config.seed + config.seeds):
    task = build.make_task_of(config, source, seed)
    if program is None:  # other seeds run the same compiled program on other data
      program = make_fedavg(
        task,
        algorithm,
        loop,
        schedule,
        freeze=freeze,
        backend=config.backend,
        chunk=config.chunk,
        eval_batch_size=config.eval_batch_size,
        evaluate_clients=config.evaluate_clients,
      )
    variables = initial_variables(task, seed)
    if not summaries:
      report.announce(config, task, program, variables)
    where = path / f"seed_{seed}" if config.seeds > 1 else path
    title = f"{config.data}, {config.model}, {config.norm}, {task.data.num_clients} clients"
    with RunFolder.open(where, {**config.saved(), "seed": seed}, config.resume) as folder:
      report.draw_start(folder, task, f"{title} by {config.partition}")
      outcome = train(
        program, build.make_loop(config, seed), task.data, variables, folder, config.progress
      )
      summaries[seed] = summary(outcome)
      folder.write_summary(summaries[seed])
      report.draw_end(folder, outcome, title)
      report.print_end(folder, summaries[seed])
  if config.seeds > 1:
    result = report.summarize_seeds(list(summaries.values()))
    write_json(Path(path) / "summary.json", result)
    report.print_seeds(summaries, result)


if __name__ == "__main__":
  app.run(main)
