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
  """Trains, or predicts."""
  split_address(config.server)
  identity, limit = build.load_identity(config, client=True), build.limit(config)
  path = Path(config.workdir or f"runs/split_client-{identity.name}").expanduser()
  with Caller(config.server, identity, limit, config.patience, notify=build.print_status) as call:
    run_info = describe(call, limit)
    config, task, network = prepare(config, run_info)
    may_resume = config.resume or config.predict
    with RunFolder.open(path, config.saved(), may_resume, config.wait_for_workdir) as folder:
      hand_overs = HandOvers(
        network,
        identity,
        run_info.run,
        exchange_key(folder.path, run_info.run),
        call,
        folder.path,
        peer=config.hand_over == "peer",
        updates=config.handed_over == "updates",
        limit=limit,
      )
      session = Session(config, task, network, run_info, hand_overs, call)
      if config.predict:
        predict(session, folder)
      else:
        train(session, identity, folder)


def prepare(config: ClientFlags, run_info: RunInfo) -> tuple[ClientFlags, Task, Network]:
  """Completes the flags with the server's settings, and checks that the data fits the network."""
  content = dict(run_info.settings)
  shape, classes = content.pop("image_shape", None), content.pop("classes", None)
  config = build.apply_server_settings(config, content)
  task = make_task(config)
  if config.client_id is not None:
    train = task.source.train
    config = resolve(config, train.labels, train.clients)
  if list(task.image_shape) != shape or task.num_classes != classes:
    raise UserError(
      f"the data has {task.num_classes} classes and images of {task.image_shape}, but the server's "
      f"network is for {classes} and {shape}; give other data or correct the server's flags."
    )
  if config.hand_over != "peer" and config.listen is not None:
    raise UserError(
      "--listen has no effect because the server does not use --hand_over=peer; drop it."
    )
  return config, task, build.build_network(config, task.image_shape, task.num_classes)


def make_task(config: ClientFlags) -> Task:
  """Returns the client's data; with ``--client_id`` as one client of the partitioned data."""
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
        "different images would feed one network differently; drop them, or partition a common "
        "--data by --client_id."
      )
    config = dataclasses.replace(config, partition="iid", clients=1)
  train = source.train
  partition = partitions.from_config(config, train.labels, train.clients, config.seed)
  config = resolve(config, train.labels, train.clients)
  return make_partitioned_task(config, source, partition)


def train(session: Session, identity: Identity, folder: RunFolder) -> None:
  """Takes part in the run until the last round."""
  config, task, network = session.config, session.task, session.network
  clients = session.run_info.clients
  client_id = check_client_id(config, identity.name, clients, task.data.num_clients)
  row = client_id if config.client_id is not None else 0
  size = int(task.data.sizes[row])
  build.check_messages(config, network, max(size, len(task.source.test.labels)))
  steps = int(network.rules.steps(np.int64(size)))
  key = jax.random.key(config.seed)
  data = gather(task.data, np.array([row]), size)
  client = Client(
    network,
    session.call,
    session.hand_overs,
    client_id,
    len(clients),
    steps,
    build.make_rates(config, steps),
    key,
    jax.random.key(config.init_seed) if config.init_seed is not None else None,
    make_draw(task, data, client_id, key, config.batch_size),
    build.limit(config),
    config.patience,
  )
  every, rounds, started = config.eval_every, len(client.rates), time.monotonic()

  def test(turn: FinishedTurn) -> dict[str, float] | None:
    round = turn.round + 1
    if round % every and round != rounds:
      return None
    return {"round": round, **evaluate(session, turn.parts, turn.next_step)}

  def after() -> None:
    """Adds the row of the last evaluation, if a stopped client has not written it yet."""
    _, traffic, scores = session.hand_overs.progress
    if scores and all(row["round"] < scores["round"] for row in folder.rows()):
      sent = {"bytes_up": traffic.sent, "bytes_down": traffic.received}
      folder.append({"round": scores["round"], **sent, **scores})

  with contextlib.ExitStack() as stack:
    address = ""
    if config.hand_over == "peer":
      listen = config.listen or "localhost:0"
      methods = session.hand_overs.methods()
      port = stack.enter_context(serving(listen, identity, methods, build.limit(config)))
      address = f"{split_address(listen, least=0)[0]}:{port}"
    labels = "stay here" if network.rules.plan.u_shaped else "are sent"
    build.print_status(f"{config.model} is cut after {network.cut}; labels {labels}.")
    join(session.call, session.hand_overs.announcement, client_id, size, address)
    run = session.run_info.run
    build.print_status(f"{identity.name} has joined run {run} with {size:,} examples.")
    final = training.train(client, test, after, build.print_status)
    with training.keep_alive(session.call, config.patience):
      result = save_result(session, folder, final)
    seconds = time.monotonic() - started
    folder.write_summary({**result, "seconds": seconds})  # before the client stays for others
    made_last = final is not None and final.hand_over.sender == identity.name
    training.stay(client, config.linger, last=made_last)
  traffic = session.hand_overs.progress.traffic
  print(
    summary_table(
      identity.name,
      [
        ("test top-1", f"{result['top1']:.2%}" if "top1" in result else "-"),
        ("sent", human_bytes(traffic.sent)),
        ("received", human_bytes(traffic.received)),
        ("time since start", human_seconds(seconds)),
        ("folder", str(folder.path)),
      ],
    )
  )


def check_client_id(config: ClientFlags, name: str, clients: list[str], num_clients: int) -> int:
  """Returns a client's index among the server's ``clients``, if it agrees with the flags."""
  if name not in clients:
    raise UserError(
      f"the server does not train with {name!r}, only with {', '.join(clients)}; any party can use "
      "--predict."
    )
  if config.client_id is not None and num_clients != len(clients):
    raise UserError(
      f"the data is divided over {num_clients} clients and the server trains with {len(clients)}; "
      "correct --clients."
    )
  if config.client_id not in (None, clients.index(name)):
    raise UserError(
      f"{name!r} is client {clients.index(name)} at the server but --client_id is "
      f"{config.client_id}; correct one of them."
    )
  return clients.index(name)


def make_draw(
  task: Task, data: FederatedData, client_id: int, key: Key, batch_size: int
) -> Callable[[np.int32], Batch]:
  """Returns a function step -> batch, with the batches that the simulation draws for the client."""
  client_data = jax.device_put(data._replace(clients=np.array([client_id], np.int32)))

  @jax.jit
  def draw_batch(data: FederatedData, step: np.int32, key: Key) -> Batch:
    return draw(data, 0, step, batch_size, task.transform, key)

  return lambda step: draw_batch(client_data, step, key)


def save_result(
  session: Session, folder: RunFolder, final: FinalWeights | None
) -> dict[str, float]:
  """Saves the client's final parts and returns their test scores."""
  if final is None:
    return {}
  for name, part in zip(("head", "tail"), final.parts, strict=False):
    build.save_part(folder.path / f"{name}.npz", part.variables)
  return evaluate(session, final.parts, final.hand_over.step)
