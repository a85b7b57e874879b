"""The contract of an algorithm.

Most algorithms average what their clients send. Such an algorithm is two pure functions,

  client(server, own, examples, context) -> Update(upload, weight, trained, own)
  server(server, mean_upload, context)   -> server

and a few small ones that say what the states are (:class:`Averaging`). ``averaging.py`` does the
rest: it maps the clients, weights and averages the uploads, combines the batch statistics, keeps
what stays with a client, and charges the ledger for the trees that cross. This is federated
averaging with a server's learning rate, whole:

>>> import dataclasses
>>> from typing import NamedTuple
>>> import optax
>>> from fedjax_norm.algorithms.averaging import AveragingConfig
>>> from fedjax_norm.algorithms.contract import Averaging, Method, Update
>>> from fedjax_norm.options import option
>>> @dataclasses.dataclass(frozen=True)
... class ToyConfig(AveragingConfig):
...   toy_lr: float = option(1.0, "The server's learning rate.", above=0)
>>> class Server(NamedTuple):
...   variables: dict
>>> def toy(config, setup):
...   def client(server, own, examples, context):
...     trained = context.train(server.variables, examples, config.steps(examples.size))
...     change = optax.tree.sub(trained.variables["params"], server.variables["params"])
...     return Update(change, config.weight(examples, trained), trained)
...   def server(server, mean_change, context):
...     step = optax.tree.scale(config.toy_lr, mean_change)
...     params = optax.tree.add(server.variables["params"], step)
...     return Server({**server.variables, "params": params})
...   return Averaging(init=Server, client=client, server=server)
>>> TOY = Method("toy", ToyConfig, toy, "Federated averaging with a server's learning rate.")

``fedjax_norm.run(TOY, task, rounds=10, toy_lr=0.5)`` runs it. With a row in ``registry.py`` it is
also ``python -m experiments.run --method=toy --toy_lr=0.5``.

What the page's functions can rely on:

- The mean that ``server`` gets is ``sum_k p_k upload_k / sum_k p_k`` over the round's clients,
  leaf by leaf, with the ``weight`` p_k of each :class:`Update`. A parameter that a client does not
  send (FedBN's norms, frozen ones) has a mean of 0. Batch statistics are combined afterwards;
  ``server`` may leave them alone.
- ``config.steps(size)`` is the exact number of steps that ``train`` then takes, and
  ``context.rate`` is the learning rate of all of them. ``local_training.make_client_update``
  defines a step.
- ``train`` goes on from the momentum that the client has kept (``client_momentum``, local by
  default if all clients take part in each round). To start anew, pass
  ``local_training.optimizer(config).init(params)`` as its ``optimizer_state``.
- A configuration is one flat namespace: its options and methods must not have the name of another
  option of a run. ``check(self)`` refuses options that contradict each other. ``LocalConfig``,
  ``AveragingConfig`` and ``ServerRateConfig`` have the usual options; inherit them.
- ``tests/algorithms/test_contract.py`` tests every row of the registry; ``test_scaffold.py`` shows
  how an algorithm is held against its paper's formulas.

An algorithm that is no average of uploads gives a whole :class:`Algorithm` in place of an
:class:`Averaging`: its ``round`` maps the clients itself.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.clock import Clock, Pace
from fedjax_norm.algorithms.ledger import Cost, Traffic
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData, Transform
from fedjax_norm.local_training import ClientOutput, LocalConfig, Metrics
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


class Setup(NamedTuple):
  """What an algorithm is built for.

  An algorithm that compiles the seed or the clients' sizes into its program says so by
  ``depends_on_seed`` of its configuration; else a run of several seeds reuses the program of the
  first.

  Attributes:
    model: the model, its norm bound to no axis.
    mapping: how clients are mapped.
    data: the whole federation, host arrays.
    transform: makes training images of stored ones.
    images: the shape [H, W, C] of an image and the dtype that the model computes in.
    seed: of the run.
    clock: the simulated times of the clients; None without a network.
  """

  model: nn.Module
  mapping: ClientMapping
  data: FederatedData
  transform: Transform
  images: jax.ShapeDtypeStruct
  seed: int = 0
  clock: Clock | None = None

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.images.shape

  @property
  def num_clients(self) -> int:
    """The population K."""
    return len(self.data.sizes)

  @property
  def bound_model(self) -> nn.Module:
    """The model with its norm bound to the axes over which clients are mapped."""
    return self.model.clone(norm=self.model.norm.bind(self.mapping.axis_names))


# --- An algorithm that averages: two functions. ---


class ClientData(NamedTuple):
  """A client's training examples.

  Attributes:
    client: its id, int32.
    size: how many examples it has, int32.
    batch: (step, places=None, take=None) -> its batch of that step since the start of the run. The
      batch has ``places`` places (``batch_size`` for None), of which ``take`` are filled (None
      fills all that the epoch has left).
  """

  client: Array
  size: Array
  batch: Callable[..., Batch]


def _of_clients(*arguments: Any, **options: Any) -> Any:
  raise TypeError("only a client has examples to train on.")


class Context(NamedTuple):
  """What a client and the server know of a round.

  Attributes:
    num_clients: the population K, an int.
    participants: how many clients the round has, float32.
    round: its index, int32.
    rate: the learning rate eta of the clients, float32.
    theta: how much the algorithm communicates, for those that can vary it, float32.
    train: (variables, examples, steps, optimizer_state=None, correction=None, extra_loss=None) ->
      ``local_training.ClientOutput``: that many local steps; for clients alone. See
      ``local_training.make_client_update``. The optimizer state is the one that the client has
      kept, or a new one, if it is not given.
    gradient: (variables, examples, places=None, take=None) -> (gradient,
      ``local_training.ClientOutput``): of the mean loss of one batch at this round; for clients
      alone.
  """

  num_clients: int
  participants: Array
  round: Array
  rate: Array
  theta: Array
  train: Callable[..., ClientOutput] = _of_clients
  gradient: Callable[..., tuple[PyTree, ClientOutput]] = _of_clients


class Update(NamedTuple):
  """What a client makes of a round.

  Attributes:
    upload: what it sends, a pytree; the server gets the mean over the round's clients.
    weight: its weight in that mean and in the mean of batch statistics, a scalar.
    trained: what ``context.train`` or ``context.gradient`` gave: the new batch statistics,
      optimizer state and metrics are taken from it.
    own: what the client itself keeps until its next round.
  """

  upload: PyTree
  weight: Array
  trained: ClientOutput
  own: PyTree = ()


class Averaging(NamedTuple):
  """An algorithm whose server averages what clients send.

  Attributes:
    init: variables -> the server's state, a NamedTuple with ``variables``.
    client: (what the client received, its own state, examples, context) -> :class:`Update`.
    server: (the server's state, the mean upload, context) -> the server's state.
    init_client: the server's state -> what a client keeps at first.
    downlink: the server's state -> what each client receives, a NamedTuple with ``variables``. It
      is all of the server that ``client`` sees.
    equal: keys of an upload that is a dict, in whose means every client counts alike, whatever its
      weight.
  """

  init: Callable[[Variables], PyTree]
  client: Callable[[Any, PyTree, ClientData, Context], Update]
  server: Callable[[Any, PyTree, Context], PyTree]
  init_client: Callable[[PyTree], PyTree] = lambda server: ()
  downlink: Callable[[Any], Any] = lambda server: server
  equal: tuple[str, ...] = ()


# --- Any algorithm: a round. ---


class RoundContext(NamedTuple):
  """What a round reads and does not change; all of it is data, so none of it recompiles.

  Attributes:
    data: the federation, or the part of it that the round's clients need.
    round: the round's index, int32.
    rate: the clients' learning rate, float32.
    key: of the run; every random number derives from it, the round and the client's id.
    theta: how much the algorithm communicates (paper 004), float32: Gaia's threshold T_t, FedAvg's
      local steps Iter_Local, the sparsity s; 0 for algorithms without.
  """

  data: FederatedData
  round: Array
  rate: Array
  key: Key
  theta: Array = 0.0


SHARDED = RoundContext(*[name == "data" for name in RoundContext._fields])  # type: ignore[arg-type]
"""What of a context each device holds a part of its own of (see ``ClientMapping.map_reduce``)."""


class Views(NamedTuple):
  """Other models than the global one that a run can test, of (server's state, a client's state).

  Attributes:
    client: that client's model; None when all clients use the global one.
    global_too: whether the global model is tested where clients have their own.
    travelling: the model that travels to other clients to be tested there (paper 004, sec. 7); None
      is the global one.
    residual: what the client has accumulated and not yet sent, of the parameters' structure; None
      for algorithms that hold nothing back.
  """

  client: Callable[[PyTree, PyTree], Variables] | None = None
  global_too: bool = False
  travelling: Callable[[PyTree, PyTree], Variables] | None = None
  residual: Callable[[PyTree, PyTree], PyTree] | None = None


class Report(NamedTuple):
  """What an algorithm adds to a run's output.

  Attributes:
    columns: the server's state -> further columns of a row of metrics, scalars by name.
    client_rows: all clients' states [K, ...], host -> the rows of ``clients.csv``.
    summary: () -> name/value pairs printed at the start of a run.
  """

  columns: Callable[[PyTree], Mapping[str, Any]] = lambda server: {}
  client_rows: Callable[[PyTree], list[dict[str, float]]] | None = None
  summary: Callable[[], list[tuple[str, str]]] = list


class Algorithm(NamedTuple):
  """A federated algorithm as the training loop runs it.

  Attributes:
    init: variables -> the server's state, a NamedTuple with ``variables``, the global model.
    init_client: the server's state -> one client's state, a pytree that outlives rounds; ``()``
      when clients keep nothing.
    round: (server, clients' states [m, ...], cohort [m], :class:`RoundContext`) -> (server,
      clients' states, metrics). The cohort is an array of rows in the context's data; -1 is nobody.
    local_steps: (clients' sizes, host) -> the numbers of local steps of a round, of each of them
      that a round hears.
    cost: what a client sends and receives in a round, whatever it has learnt.
    sent: the server's state -> what else has been sent since the start, where that depends on what
      was learnt; None where it does not.
    pass_cost: what a client sends and receives when batch statistics are recomputed, a step being
      an example; None where it holds the whole model.
    pace: how a round's clients wait for one another.
    averages_next: the server's state -> whether clients' models are averaged before their next
      step; None where that has no meaning.
    views: further models.
    report: further output.
  """

  init: Callable[[Variables], PyTree]
  init_client: Callable[[PyTree], PyTree]
  round: Callable[[PyTree, PyTree, Array, RoundContext], tuple[PyTree, PyTree, Metrics]]
  local_steps: Callable[[np.ndarray], np.ndarray]
  cost: Cost
  sent: Callable[[PyTree], Traffic] | None = None
  pass_cost: Cost | None = None
  pace: Pace = "together"
  averages_next: Callable[[PyTree], Array] | None = None
  views: Views = Views()
  report: Report = Report()


# --- What makes an algorithm known. ---


class Theta(NamedTuple):
  """How much an algorithm communicates, for those in which that is a number that may vary.

  Attributes:
    values: (configuration, rounds) -> theta of each round.
    grid: the values that SkewScout chooses from, from most communication to least.
    follows_rate: whether theta falls with the learning rate.
    rises: whether a larger theta means less communication along a bounded scale (a sparsity).
    whole: whether it is a whole number.
  """

  values: Callable[[Any, int], np.ndarray]
  grid: tuple[float, ...] = ()
  follows_rate: bool = False
  rises: bool = False
  whole: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
  """A row of the registry: what makes an algorithm known to binaries, presets, tests and docs.

  Attributes:
    name: what users call it.
    config: the class of its options.
    build: (configuration, setup) -> the algorithm.
    help: one sentence.
    defaults: of options, other than their classes' own.
    stepwise: whether a round is one step of the joint model, so that lengths may be in epochs.
    usual: the rounds of a stepwise run, and between two evaluations, where neither is given.
    all_clients: whether every client takes part in every round.
    one_process: whether it is simulated in one process only.
    one_by_one: configuration -> whether its clients run one after another.
    without: options of its classes that mean nothing to it; no binary has a flag for them.
    theta: how much it communicates, where that may vary.
    step_flops: (configuration, setup) -> the operations of a client's local step; None is that of
      training the whole model.
  """

  name: str
  config: type[LocalConfig]
  build: Callable[[Any, Setup], Averaging | Algorithm]
  help: str
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  stepwise: bool = False
  usual: tuple[int, int] = (600, 50)
  all_clients: bool = False
  one_process: bool = False
  one_by_one: Callable[[Any], bool] = lambda config: False
  without: tuple[str, ...] = ()
  theta: Theta | None = None
  step_flops: Callable[[Any, Setup], float | np.ndarray] | None = None
