"""The client of split learning over a network: ``python -m experiments.split_client``."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from fedjax_norm.cli.train import load
from fedjax_norm.cli.train import make_task as make_partitioned_task
from fedjax_norm.cli.wire import build
from fedjax_norm.cli.wire.evaluation import Session, evaluate, predict
from fedjax_norm.cli.wire.options import ClientFlags
from fedjax_norm.data.federated import FederatedData, draw, gather
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.config import resolve
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table
from fedjax_norm.typing import Batch, Key
from fedjax_norm.wire.client import training
from fedjax_norm.wire.client.exchange_key import exchange_key
from fedjax_norm.wire.client.hand_overs import HandOvers
from fedjax_norm.wire.client.queries import RunInfo, describe, join
from fedjax_norm.wire.client.training import Client, FinalWeights, FinishedTurn
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network
from fedjax_norm.wire.protocol.serving import serving


def main(config: ClientFlags) -> None:
  """Trains this client's segments of the model, or classifies its test images (--predict)."""
  split_address(config.server)
  identity, limit = build.load_identity(config, client=True), build.limit(config)
  path = Path(config.workdir or f"runs/split_client-{identity.name}").expanduser()
  with Caller(config.server, identity, limit, config.patience, notify=build.print_status) as call:
    run_info = describe(call, limit)
    config, task, network = prepare(config, run_info)
    may_resume, run = config.resume or config.predict, run_info.run
    peer, updates = config.hand_over == "peer", config.handed_over == "updates"
    with RunFolder.open(path, config.saved(), may_resume, config.wait_for_workdir) as folder:
      key = exchange_key(folder.path, run)
      hand_overs = HandOvers(
        network, identity, run, key, call, folder.path, peer=peer, updates=updates, limit=limit
      )
      session = Session(config, task, network, run_info, hand_overs, call)
      if config.predict:
        predict(session, folder)
      else:
        train(session, identity, folder)


def prepare(config: ClientFlags, run_info: RunInfo) -> tuple[ClientFlags, Task, Network]:
  """Completes the flags with the server's values; returns the flags, the data and the network.

  Raises:
    UserError: the data does not fit the server's network, or a flag is impossible or has no effect.
  """
  content = dict(run_info.settings)
  shape, classes = content.pop("image_shape", None), content.pop("classes", None)
  config = build.apply_server_settings(config, content)
  task = make_task(config)
  if config.client_id is not None:
    config = resolve(config, task.source.train.labels, task.source.train.clients)
  if list(task.image_shape) != shape or task.num_classes != classes:
    raise UserError(
      f"the data has {task.num_classes} classes and images of {task.image_shape}, but the server's "
      f"network is for {classes} and {shape}; give other --data, or correct --classes and "
      "--image_shape at the server."
    )
  if config.hand_over != "peer" and config.listen is not None:
    raise UserError("--listen has no effect without --hand_over=peer at the server; drop --listen.")
  return config, task, build.build_network(config, task.image_shape, task.num_classes)


def make_task(config: ClientFlags) -> Task:
  """Returns the data: all of --data, or with --client_id the data partitioned over --clients.

  Raises:
    UserError: without --client_id, a flag has no effect or depends on all parties' images.
  """
  source = load(config)
  if config.client_id is None:
    for name in ("clients", "partition"):
      if not config.predict and getattr(config, name) is not None:
        raise UserError(
          f"--{name} has no effect without --client_id, the index of this client; drop --{name} or "
          "add --client_id."
        )
    if config.by_pixel:
      raise UserError(
        "--whiten=zca and --subtract=image depend on all training images, and parties with "
        "different images would feed one network differently; drop these flags, or give all "
        "clients the same --data and each a --client_id."
      )
    config = dataclasses.replace(config, partition="iid", clients=1)
  train = source.train
  partition = partitions.from_config(config, train.labels, train.clients, config.seed)
  config = resolve(config, train.labels, train.clients)
  return make_partitioned_task(config, source, partition)


def train(session: Session, identity: Identity, folder: RunFolder) -> None:
  """Trains the client until the last round, and writes its weights, metrics and summary."""
  config, task, network, run_info, hand_overs, call = session
  limit, patience, count = build.limit(config), config.patience, len(run_info.clients)
  index = check_client_id(config, identity.name, run_info.clients, task.data.num_clients)
  row = index if config.client_id is not None else 0
  size = int(task.data.sizes[row])
  build.check_messages(config, network, max(size, len(task.source.test.labels)))
  steps, key = int(network.rules.steps(np.int64(size))), jax.random.key(config.seed)
  start = None if config.init_seed is None else jax.random.key(config.init_seed)
  data = gather(task.data, np.array([row]), size)
  batches = make_draw(task, data, index, key, config.batch_size)
  rates = build.make_rates(config, steps)
  client = Client(
    network, call, hand_overs, index, count, steps, rates, key, start, batches, limit, patience
  )
  every, rounds, started = config.eval_every, len(rates), time.monotonic()

  def test(turn: FinishedTurn) -> dict[str, float] | None:
    round = turn.round + 1
    if round % every and round != rounds:
      return None
    return {"round": round, **evaluate(session, turn.parts, turn.next_step)}

  def after() -> None:
    """Adds the last evaluation to the metrics, unless the row was written before a stop."""
    _, traffic, scores = hand_overs.progress
    if scores and all(row["round"] < scores["round"] for row in folder.rows()):
      sent = {"bytes_up": traffic.sent, "bytes_down": traffic.received}
      folder.append({"round": scores["round"], **sent, **scores})

  with contextlib.ExitStack() as stack:
    address = ""
    if config.hand_over == "peer":
      listen = config.listen or "localhost:0"
      port = stack.enter_context(serving(listen, identity, hand_overs.methods(), limit))
      address = f"{split_address(listen, least=0)[0]}:{port}"
    labels = "stay here" if network.rules.plan.u_shaped else "are sent"
    build.print_status(f"{config.model} is cut after {network.cut}; labels {labels}.")
    join(call, hand_overs.announcement, index, size, address)
    build.print_status(f"{identity.name} has joined run {run_info.run} with {size:,} examples.")
    final = training.train(client, test, after, build.print_status)
    with training.keep_alive(call, patience):
      result = save_result(session, folder, final)
    seconds = time.monotonic() - started
    folder.write_summary({**result, "seconds": seconds})  # before the client stays for others
    made_last = final is not None and final.hand_over.sender == identity.name
    training.stay(client, config.linger, last=made_last)
  traffic = hand_overs.progress.traffic
  pairs = [
    ("test top-1", f"{result['top1']:.2%}" if "top1" in result else "-"),
    ("sent", human_bytes(traffic.sent)),
    ("received", human_bytes(traffic.received)),
    ("time since start", human_seconds(seconds)),
    ("folder", str(folder.path)),
  ]
  print(summary_table(identity.name, pairs))


def check_client_id(config: ClientFlags, name: str, clients: list[str], num_clients: int) -> int:
  """Returns the client's index among the server's ``clients``; others raise ``UserError``."""
  if name not in clients:
    raise UserError(
      f"the server does not train with {name!r}, only with {', '.join(clients)}; use --predict, or "
      "add the name to --client_names at the server."
    )
  if config.client_id is not None and num_clients != len(clients):
    raise UserError(
      f"--data is divided over {num_clients} clients but the server trains with {len(clients)}; "
      "start this client with the same number of --clients."
    )
  index = clients.index(name)
  if config.client_id not in (None, index):
    raise UserError(
      f"{name!r} is client {index} at the server but --client_id is {config.client_id}; correct "
      "--client_id, or the order of --client_names at the server."
    )
  return index


def make_draw(
  task: Task, data: FederatedData, client_id: int, key: Key, batch_size: int
) -> Callable[[np.int32], Batch]:
  """Returns a function: number of the client's step -> batch, as ``experiments.split`` draws it."""
  client_data = jax.device_put(data._replace(clients=np.array([client_id], np.int32)))

  @jax.jit
  def draw_batch(data: FederatedData, step: np.int32, key: Key) -> Batch:
    return draw(data, 0, step, batch_size, task.transform, key)

  return lambda step: draw_batch(client_data, step, key)


def save_result(
  session: Session, folder: RunFolder, final: FinalWeights | None
) -> dict[str, float]:
  """Saves the final weights of the client's segments and returns the network's test scores."""
  if final is None:
    return {}
  for name, part in zip(("head", "tail"), final.parts, strict=False):
    build.save_part(folder.path / f"{name}.npz", part.variables)
  return evaluate(session, final.parts, final.hand_over.step)
