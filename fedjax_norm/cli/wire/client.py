"""Alice: ``python -m experiments.split_client --certificate=alice0.pem --key=alice0.key ...``.

A client of split learning over a real network (paper 003, sec. 4): it holds the first stages of the
model (and with the server's ``--tail`` the last ones) and its data, which never leave it. With
``--predict`` it classifies its test images with the trained network (sec. 3). The same command goes
on where a killed one stopped.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from fedjax_norm.cli import app
from fedjax_norm.cli.train import load
from fedjax_norm.cli.train import make_task as divided_task
from fedjax_norm.cli.wire import build
from fedjax_norm.cli.wire.options import ClientFlags
from fedjax_norm.cli.wire.test_images import Joined, evaluate, predict
from fedjax_norm.data.federated import FederatedData, draw, gather
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.config import resolve
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table
from fedjax_norm.typing import Batch
from fedjax_norm.wire.client import client as alices
from fedjax_norm.wire.client.client import Alice, Final, Turned
from fedjax_norm.wire.client.hand_overs import Keeper, exchange_key
from fedjax_norm.wire.client.queries import Described, describe, join
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network
from fedjax_norm.wire.protocol.transport import Caller, serving


def main(config: ClientFlags) -> None:
  """Trains, or predicts."""
  split_address(config.server)
  identity = build.own_identity(config, client=True)
  path = Path(config.workdir or f"runs/split_client-{identity.name}").expanduser()
  with Caller(
    config.server, identity, build.limit(config), config.patience, told=build.say
  ) as call:
    described = describe(call, build.limit(config))
    config, task, network = prepare(config, described)
    may_resume = config.resume or config.predict
    with RunFolder.open(path, config.saved(), may_resume, config.wait_for_workdir) as folder:
      keeper = Keeper(
        network,
        identity,
        described.run,
        exchange_key(folder.path, described.run),
        call,
        folder.path,
        peer=config.hand_over == "peer",
        updates=config.handed_over == "updates",
        limit=build.limit(config),
      )
      ready = Joined(config, task, network, described, keeper, call)
      if config.predict:
        predict(ready, folder)
      else:
        train(ready, identity, folder)


def prepare(config: ClientFlags, described: Described) -> tuple[ClientFlags, Task, Network]:
  """Completes the flags, and checks the data against what the run is.

  Raises:
    UserError: they do not fit.
  """
  content = dict(described.told)
  shape, classes = content.pop("image_shape", None), content.pop("classes", None)
  config = build.merged(config, content)
  task = make_task(config)
  if config.client_id is not None:
    train = task.source.train
    config = resolve(config, train.labels, train.clients)
  if list(task.image_shape) != shape or task.num_classes != classes:
    raise UserError(
      f"the data has {task.num_classes} classes and images of {task.image_shape}, and the server's "
      f"network is for {classes} and {shape}; give other data or correct the server's flags."
    )
  if config.hand_over != "peer" and config.listen is not None:
    raise UserError("--listen does nothing here: the server has no --hand_over=peer; drop it.")
  return config, task, build.make_network_of(config, task.image_shape, task.num_classes)


def make_task(config: ClientFlags) -> Task:
  """The client's data, with that of the other clients where it is a share of a set."""
  source = load(config)
  if config.client_id is None:
    for name in ("clients", "partition"):
      if not config.predict and getattr(config, name) is not None:
        raise UserError(
          f"--{name} does nothing here: it needs --client_id, which of the clients this is; drop "
          "it or add that."
        )
    if config.by_pixel:
      raise UserError(
        "--whiten=zca and --subtract=image depend on all training images, and parties with images "
        "of their own would feed one network differently; drop them, or divide a --data that all "
        "share by --client_id."
      )
    config = dataclasses.replace(config, partition="iid", clients=1)
  train = source.train
  division = partitions.from_config(config, train.labels, train.clients, config.seed)
  config = resolve(config, train.labels, train.clients)
  return divided_task(config, source, division)


def train(ready: Joined, identity: Identity, folder: RunFolder) -> None:
  """Takes part until the last round."""
  config, task, network = ready.config, ready.task, ready.network
  place = place_of(config, identity.name, ready.described.clients, task.data.num_clients)
  row = place if config.client_id is not None else 0
  size = int(task.data.sizes[row])
  build.check_messages(config, network, max(size, len(task.source.test.labels)))
  steps = int(network.rules.steps(np.int64(size)))
  key = jax.random.key(config.seed)
  alice = Alice(
    network,
    ready.call,
    ready.keeper,
    place,
    len(ready.described.clients),
    steps,
    build.make_rates(config, steps),
    key,
    jax.random.key(config.init_seed) if config.init_seed is not None else None,
    drawing(task, gather(task.data, np.array([row]), size), place, key, config.batch_size),
    build.limit(config),
    config.patience,
  )  # fmt: skip
  every, rounds, began = config.eval_every, len(alice.rates), time.monotonic()

  def test(turned: Turned) -> dict[str, float] | None:
    round = turned.round + 1
    if round % every and round != rounds:
      return None
    return {"round": round, **evaluate(ready, turned.own, turned.step)}

  def after() -> None:
    """Adds the row of the last evaluation, which a client that was stopped may have left out."""
    _, traffic, scores = ready.keeper.progress
    if scores and all(row["round"] < scores["round"] for row in folder.rows()):
      sent = {"bytes_up": traffic.sent, "bytes_down": traffic.received}
      folder.append({"round": scores["round"], **sent, **scores})

  with contextlib.ExitStack() as stack:
    address = ""
    if config.hand_over == "peer":
      listen = config.listen or "localhost:0"
      methods = ready.keeper.methods()
      port = stack.enter_context(serving(listen, identity, methods, build.limit(config)))
      address = f"{split_address(listen, least=0)[0]}:{port}"
    labels = "stay here" if network.rules.plan.u_shaped else "are sent"
    build.say(f"{config.model} is cut after {network.cut}; labels {labels}.")
    join(ready.call, ready.keeper.announcement, place, size, address)
    build.say(f"{identity.name} has joined run {ready.described.run} with {size:,} examples.")
    final = alices.train(alice, test, after, build.say)
    with alices.at_work(ready.call, config.patience):
      result = finish(ready, folder, final)
    seconds = time.monotonic() - began
    folder.write_summary({**result, "seconds": seconds})  # as long as the server is there
    mine = final is not None and final.handed.sender == identity.name
    alices.stay(alice, config.linger, last=mine)
  print(
    summary_table(
      identity.name,
      [
        ("test top-1", f"{result['top1']:.2%}" if "top1" in result else "-"),
        ("sent", human_bytes(ready.keeper.progress.traffic.sent)),
        ("received", human_bytes(ready.keeper.progress.traffic.received)),
        ("time since its start", human_seconds(seconds)),
        ("folder", str(folder.path)),
      ],
    )
  )


def place_of(config: ClientFlags, name: str, clients: list[str], divided: int) -> int:
  """The client's place among the turns.

  Raises:
    UserError: it has none, or asks for another, or the data is divided otherwise.
  """
  if name not in clients:
    raise UserError(
      f"the server does not train with {name!r}, only with {', '.join(clients)}; --predict is open "
      "to all."
    )
  if config.client_id is not None and divided != len(clients):
    raise UserError(
      f"the data is divided over {divided} clients and the server trains with {len(clients)}; "
      "correct --clients."
    )
  if config.client_id not in (None, clients.index(name)):
    raise UserError(
      f"{name!r} has place {clients.index(name)} at the server and --client_id is "
      f"{config.client_id}; correct one of them."
    )
  return clients.index(name)


def drawing(
  task: Task, data: FederatedData, place: int, key: jax.Array, batch_size: int
) -> Callable[[np.int32], Batch]:
  """The client's batches, those that the simulation draws for it."""
  own = jax.device_put(data._replace(clients=np.array([place], np.int32)))

  @jax.jit
  def drawn(data: FederatedData, step: np.int32, key: jax.Array) -> Batch:
    return draw(data, 0, step, batch_size, task.transform, key)

  return lambda step: drawn(own, step, key)


def finish(ready: Joined, folder: RunFolder, final: Final | None) -> dict[str, float]:
  """Keeps the client's parts as all turns left them, and tests them."""
  if final is None:
    return {}
  for name, part in zip(("head", "tail"), final.own, strict=False):
    build.save_part(folder.path / f"{name}.npz", part.variables)
  return evaluate(ready, final.own, final.handed.step)


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  app.run(main, ClientFlags)
