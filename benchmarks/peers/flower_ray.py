"""Flower's simulation: a client app in PyTorch on Ray, one core per client."""

import os
import time

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers import flower_task as task
from benchmarks.peers import job as jobs
from benchmarks.peers import torch_models
from benchmarks.peers.job import Job, Result


def make_client_app(job: Job) -> ClientApp:
  """Returns an app that trains one client."""
  app = ClientApp()

  @app.train()
  def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    model = task.network(job)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    model.to(task.DEVICE)
    batches = task.load(job, int(context.node_config["partition-id"]))
    loss = task.train(job, model, batches)
    metrics = {"train_loss": loss, "num-examples": float(job.local_steps * job.batch_size)}
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=message)

  return app


def measure(job: Job) -> Result:
  """Measures Flower by its central evaluation, which runs before the first and after each round."""
  times: list[float] = []
  losses: list[float] = []

  def note(server_round: int, arrays: ArrayRecord) -> None:
    times.append(time.perf_counter())

  server_app = ServerApp()

  @server_app.main()
  def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(
      fraction_train=job.cohort / job.clients,
      fraction_evaluate=0.0,
      min_train_nodes=job.cohort,
      min_available_nodes=job.clients,
    )
    image_shape = jobs.array(job, "data/x_train", mapped=True).shape[1:]
    model = torch_models.build(job, image_shape, jobs.weights(job))
    arrays = ArrayRecord(model.state_dict())
    outcome = strategy.start(grid, arrays, job.rounds, evaluate_fn=note)
    metrics = outcome.train_metrics_clientapp
    losses.extend(float(metrics[r]["train_loss"]) for r in sorted(metrics))

  num_gpus = 1 / job.threads if task.DEVICE == "cuda" else 0.0  # as many clients at once
  run_simulation(
    server_app,
    make_client_app(job),
    job.clients,
    backend_config={
      "client_resources": {"num_cpus": 1, "num_gpus": num_gpus},
      "init_args": {"num_cpus": job.threads, "include_dashboard": False},
    },
  )
  if len(times) != job.rounds + 1:
    raise RuntimeError(f"{len(times) - 1} of {job.rounds} rounds came to an end.")
  result = jobs.result(job, times[0], times[job.rounds_per_sample :: job.rounds_per_sample])
  calls = torch.tensor(losses).reshape(-1, job.rounds_per_sample)
  result.losses = calls.mean(1).tolist()
  result.device = task.DEVICE
  result.peak_mb = None
  return result


if __name__ == "__main__":
  jobs.main(measure)
