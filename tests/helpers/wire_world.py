"""A small cut network, and a server and clients that communicate over real sockets."""

import atexit
import contextlib
import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from conftest import make_tiny_source
from helpers.settings import configure, plain

from fedjax_norm import norm, tree_leaves
from fedjax_norm.cli.wire.client import make_draw
from fedjax_norm.data.federated import gather
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.local_training import Metrics
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import Norm, NormSpec
from fedjax_norm.split.by_messages.training import make_interval
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.messages import ACTIVATION
from fedjax_norm.split.rules import make_rules
from fedjax_norm.training.build_program import images_of
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import Task, make_task
from fedjax_norm.wire.client import queries, training
from fedjax_norm.wire.client.exchange_key import exchange_key
from fedjax_norm.wire.client.hand_overs import HandOvers
from fedjax_norm.wire.client.training import Client
from fedjax_norm.wire.protocol import certificate_authority, frames, private_files
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network, make_network
from fedjax_norm.wire.protocol.serving import serving
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server.server import Server
from fedjax_norm.wire.server.state import RunSettings, RunState

LIMIT, BATCH, ROUNDS, STEPS = 10**6, 4, 2, 2
RATES = np.float32([0.1, 0.05])
NAMES = ("alice0", "alice1")


class Small(Staged):
  """A convolution with a norm, two dense layers: a stage each."""

  norm: NormSpec
  num_classes: int = 4

  def stages(self):
    def head(x, mode):
      x = Conv(2, (3, 3), self.norm, strides=(2, 2), name="Conv_0")(x, mode)
      return jax.nn.relu(Norm(self.norm, name="Norm_0")(x, mode)).reshape(len(x), -1)

    def body(x, mode):
      return jax.nn.relu(Dense(5, self.norm, name="Dense_0")(x, mode))

    def tail(x, mode):
      return Dense(self.num_classes, self.norm, name="Dense_1")(x, mode)

    return (("head", head), ("body", body), ("tail", tail))


@functools.cache
def task() -> Task:
  """Two clients of 7 examples, so that an epoch ends with a partial batch."""
  source = make_tiny_source(num_train=14, num_test=6)
  division = partitions.make("iid", source.train.labels, 2, 0)
  made = make_task(source, division, norm.create("bn"))
  return made._replace(model=Small(norm.create("bn")))


def options(**changes) -> SplitConfig:
  local = plain(batch_size=BATCH, momentum=0.9, weight_decay=1e-3)
  return configure(SplitConfig, local, cut="head", local_steps=STEPS, **changes)


def by_messages(task: Task, config: SplitConfig, rates: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the final variables of the simulation, step by step, by path."""
  label = jax.ShapeDtypeStruct((), np.int32)
  rules = make_rules(task.model, config, images_of(task), label)
  start = rules.init(initial_variables(task, 0))
  interval = make_interval(rules, config, task.transform, 0, lambda seed: start, nothing)
  number, rounds = task.data.num_clients, len(rates)
  one = rules.init_client(start)
  clients = jax.tree.map(lambda a: jnp.stack([a] * number), one)
  slots, data = np.tile(np.arange(number), (rounds, 1)), jax.device_put(task.data)
  state, _, _ = interval(
    start, clients, Metrics.zeros(), slots, rates, rates, 0, 0, rounds, data, jax.random.key(0)
  )
  return tree_leaves.flatten(jax.tree.map(np.asarray, state.variables))


@functools.cache
def network(tail: str | None = None) -> Network:
  return make_network(task().model, options(tail=tail), images_of(task()), task().num_classes)


@functools.cache
def identities() -> dict[str, Identity]:
  """Identities of the server, two clients, and carol, who does not train."""
  authority, server, clients = certificate_authority.make(["localhost"], [*NAMES, "carol"])
  pairs = {"localhost": server, **clients}
  return {name: identity(name, authority, pair) for name, pair in pairs.items()}


def identity(name: str, authority: bytes, pair: certificate_authority.Pair) -> Identity:
  """Returns an identity with files that exist until the tests are over."""
  folder = Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder)
  files = folder / "pem", folder / "key"
  for path, data in zip(files, pair, strict=True):
    private_files.create(path, data)
  return Identity(name, authority, *pair, files)


class World:
  """One run: a server behind a socket, which can be restarted, and its clients."""

  def __init__(self, folder: Path, *, tail=None, peer=False, updates=False, patience=20.0):
    self.network, self.folder = network(tail), folder
    self.peer, self.updates = peer, updates
    key = jax.random.key(0)
    authority = identities()["localhost"].authority
    self.settings = RunSettings(
      self.network, authority, NAMES, {}, RATES, key, patience, peer, LIMIT
    )
    self.later = 0.0  # seconds that a test adds to the clock
    self.seen: list[tuple[str, str, bytes]] = []
    self.rounds: list[tuple] = []
    (folder / "server").mkdir()
    self.restart()
    self._stack = contextlib.ExitStack()

  def restart(self) -> None:
    """Replaces the server by a new one that resumes from the folder."""
    self.server = Server(
      self.settings,
      self.folder / "server",
      lambda *row: self.rounds.append(row),
      lambda: time.monotonic() + self.later,
    )

  def __enter__(self) -> "World":
    def method(name):
      def run(caller: str, data: bytes) -> bytes:
        self.seen.append((name, caller, data))
        return self.server.methods()[name](caller, data)

      return run

    methods = {name: method(name) for name in self.server.methods()}
    server = serving("localhost:0", identities()["localhost"], methods, LIMIT)
    self.address = f"localhost:{self._stack.enter_context(server)}"
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()

  def caller(self, name: str) -> Caller:
    return self._stack.enter_context(Caller(self.address, identities()[name], LIMIT, 5))

  def client(self, name: str, *, join: bool = True, place: int | None = None) -> Client:
    """Returns a client that has joined, with its folder, which an earlier client may have used."""
    folder = self.folder / name
    folder.mkdir(exist_ok=True)
    call, identity = self.caller(name), identities()[name]
    hand_overs = HandOvers(
      self.network,
      identity,
      self.server.state.membership.run,
      exchange_key(folder, self.server.state.membership.run),
      call,
      folder,
      peer=self.peer,
      updates=self.updates,
      limit=LIMIT,
    )
    address = ""
    if self.peer:
      port = self._stack.enter_context(
        serving("localhost:0", identity, hand_overs.methods(), LIMIT)
      )
      address = f"localhost:{port}"
    place = NAMES.index(name) if name in NAMES else place
    if join:
      queries.join(call, hand_overs.announcement, place, 7 * (place is not None), address)
    key, row = jax.random.key(0), place or 0
    drawn = make_draw(task(), gather(task().data, np.array([row]), 7), row, key, BATCH)
    how = (row, len(NAMES), STEPS, RATES, key, key, drawn, LIMIT, 5.0)
    return Client(self.network, call, hand_overs, *how)

  def train(self, *members: Client) -> list:
    """Runs ``training.train`` of all clients, each in a thread; returns the results."""
    results = [None] * len(members)

    def run(index: int) -> None:
      try:
        results[index] = training.train(members[index], self.before_put, nothing, nothing)
      except Exception as error:
        results[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(members))]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(30)
    for error in results:
      if not isinstance(error, training.FinalWeights):
        raise AssertionError from error
    return results

  @property
  def state(self) -> RunState:
    return self.server.state

  def variables(self, parts) -> dict[str, np.ndarray]:
    """Returns the whole model's variables, from a client's parts and the server's."""
    trees = [part.variables for part in (*parts, self.state.committed.part)]
    return {k: np.asarray(v) for tree in trees for k, v in tree_leaves.flatten(tree).items()}

  def before_put(self, turn) -> None:
    """A test can replace this callback."""


def nothing(*_) -> None:
  """A callback that does nothing."""


@contextlib.contextmanager
def world(path: Path, **changes) -> Iterator[World]:
  with World(path, **changes) as made:
    yield made


def simulated(tail=None):
  """Returns the variables of ``--step_by_step`` in one process."""
  return by_messages(task(), options(tail=tail), RATES)


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], name)


def ask(client, *, waiting=True, final=False) -> queries.TurnInfo:
  return queries.ask_turn(client.call, LIMIT, waiting=waiting, final=final)


def begun(w, name="alice0"):
  """Returns a client with the turn, the other client, and the request of the first step."""
  client = w.client(name)
  other = w.client("alice1" if name == "alice0" else "alice0")
  ask(other)
  assert ask(client).state == "yours"
  return client, other, request(w)


def request(w, step=0, turn=0, **changes):
  rng = np.random.default_rng(step)
  shape = w.network.outputs[0].shape
  sent = {"activation": rng.normal(size=(3, *shape)).astype(np.float32)}
  sent["labels"] = np.array([0, 1, 3], np.int32)
  return Frame(ACTIVATION, step_id(turn, step), frames.tree_tensors({**sent, **changes}))


def yours(client, other):
  ask(other)
  return ask(client)


def turn_of(client, other):
  """Takes a client's turn and hands over."""
  turn = training._take_turn(client, yours(client, other))
  client.hand_overs.hand_over(turn.parts, turn.next_step)
