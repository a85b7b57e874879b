"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

The defaults are the hardest case: digits, ten clients that hold one class each, one local step of
SGD a round. ``--help`` lists the flags; ``--flagfile=experiments/presets/NAME.flags`` is a preset.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import app, build, report
from experiments.flags import Config
from fedjax_norm.errors import UserError
from fedjax_norm.training.fedavg import initial_variables, make_fedavg
from fedjax_norm.training.loop import Program, summary, train
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.training.task import Task


def main(config: Config) -> None:
  """Runs FedAvg with one seed or several."""
  if config.seeds < 1:
    raise UserError(f"--seeds is {config.seeds}; it must be at least 1.")
  algorithm, schedule = build.make_algorithm(config), build.make_schedule(config)
  freeze, loop = build.make_freeze(config), build.make_loop(config, config.seed)
  build.make_loop(config, config.seed + config.seeds - 1)
  source = build.make_source(config)
  task = build.make_task_of(config, source, config.seed)
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
    data_on=config.data_on,
  )
  report.announce(config, task, program)
  path = app.new_folder(config, "fedavg")
  if config.seeds == 1:
    run_seed(config, task, program, path)
    return
  summaries: dict[int, dict[str, Any]] = {}
  with RunFolder.open(path, config.saved(), config.resume) as folder:
    for seed in range(config.seed, config.seed + config.seeds):
      one = dataclasses.replace(config, seed=seed, seeds=1)
      # Another seed runs the same compiled program on other data.
      task = build.make_task_of(one, source, seed)
      summaries[seed] = run_seed(one, task, program, path / f"seed_{seed}")
    result = report.summarize_seeds(list(summaries.values()))
    folder.write_summary(result)
    report.print_seeds(summaries, result)


def run_seed(config: Config, task: Task, program: Program, path: Path) -> dict[str, Any]:
  """Runs one seed in its own folder, shows it and gives its summary."""
  variables = initial_variables(task, config.seed)
  title = f"{config.data}, {config.model}, {config.norm}, {task.data.num_clients} clients"
  with RunFolder.open(path, config.saved(), config.resume) as folder:
    report.draw_start(folder, task, f"{title} by {config.partition}")
    loop = build.make_loop(config, config.seed)
    outcome = train(program, loop, task.data, variables, folder, config.progress)
    result = summary(outcome)
    folder.write_summary(result)
    report.draw_end(folder, outcome, title)
    report.print_end(folder, result)
  return result


if __name__ == "__main__":
  app.run(main)
