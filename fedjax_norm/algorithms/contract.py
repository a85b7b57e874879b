"""The contract of an algorithm.

Most algorithms average the uploads of their clients. Such an algorithm is two pure functions,

  client(server, client_state, examples, context) -> Update(upload, weight, trained, client_state)
  server(server, mean_upload, context)            -> server

and a few small ones that define the states (:class:`Averaging`). ``averaging.py`` does the rest: it
maps the clients, weights and averages the uploads, combines the batch statistics, stores the
clients' states, and charges the ledger for the trees that are sent. This is federated averaging
with a server learning rate, complete:

>>> import dataclasses
>>> from typing import NamedTuple
>>> import optax
>>> from fedjax_norm.algorithms.averaging_config import AveragingConfig
>>> from fedjax_norm.algorithms.contract import Averaging, Method, Update
>>> from fedjax_norm.options import option
>>> @dataclasses.dataclass(frozen=True)
... class ToyConfig(AveragingConfig):
...   toy_lr: float = option(1.0, "Learning rate of the server.", above=0)
>>> class ServerState(NamedTuple):
...   variables: dict
>>> def toy(config, setup):
...   def client(server, client_state, examples, context):
...     trained = context.train(server.variables, examples, config.steps(examples.size))
...     change = optax.tree.sub(trained.variables["params"], server.variables["params"])
...     return Update(change, config.weight(examples, trained), trained)
...   def server(server, mean_change, context):
...     step = optax.tree.scale(config.toy_lr, mean_change)
...     params = optax.tree.add(server.variables["params"], step)
...     return ServerState({**server.variables, "params": params})
...   return Averaging(init=ServerState, client=client, server=server)
>>> TOY = Method("toy", ToyConfig, toy, "Federated averaging with a server learning rate.")

``fedjax_norm.run(TOY, task, rounds=10, toy_lr=0.5)`` runs it. With a row in ``registry.py`` it is
also ``python -m experiments.run --method=toy --toy_lr=0.5``.

The two functions can rely on this:

- The mean that ``server`` gets is ``sum_k p_k upload_k / sum_k p_k`` over the clients of the round,
  leaf by leaf, with the ``weight`` p_k of each :class:`Update`. A parameter that clients do not
  send (FedBN's norms, frozen parameters) has the mean 0. Batch statistics are combined afterwards;
  ``server`` can ignore them.
- ``config.steps(size)`` is the exact number of steps that ``train`` takes, and ``context.rate`` is
  the learning rate of all of them. ``local_training.make_client_update`` defines a step.
- ``train`` resumes from the client's stored momentum (``client_momentum``, by default ``local`` if
  all clients take part in each round). To start from zero momentum, pass
  ``local_training.optimizer(config).init(params)`` as its ``optimizer_state``.
- All options of a run share one namespace: a configuration must not have an option or a method with
  the name of another option. ``check(self)`` raises UserError for options that contradict each
  other. Inherit the usual options from ``LocalConfig``, ``AveragingConfig`` and
  ``ServerRateConfig``.
- ``tests/algorithms/test_contract.py`` tests every row of the registry; ``test_scaffold.py`` is an
  example of a test against the formulas of a paper.

An algorithm that does not average uploads returns an ``round_algorithm.Algorithm`` instead of an
:class:`Averaging`: its ``round`` maps the clients itself.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.costs.clock import Clock
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData, Transform
from fedjax_norm.local_training import ClientOutput, LocalConfig
from fedjax_norm.typing import Array, Batch, PyTree, Variables


class Setup(NamedTuple):
  """What an algorithm is built from, in addition to its configuration.

  Several seeds of a run share one compiled program, unless the configuration's ``depends_on_seed``
  says that the program depends on the seed or on the clients' numbers of examples.

  Attributes:
    model: the model; its norm is not bound to the axes over which clients are mapped.
    mapping: how clients are mapped.
    data: data of all clients, arrays in host memory.
    transform: function from stored images to training images.
    images: shape [H, W, C] of an image and the dtype that the model computes in.
    seed: seed of the run.
    clock: simulated speeds of the clients; None if no network is simulated.
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
    """The shape (H, W, C) of an image."""
    return self.images.shape

  @property
  def num_clients(self) -> int:
    """The number K of all clients (the population)."""
    return len(self.data.sizes)

  @property
  def bound_model(self) -> nn.Module:
    """The model with its norm bound to the axes over which clients are mapped."""
    return self.model.clone(norm=self.model.norm.bind(self.mapping.axis_names))


class ClientData(NamedTuple):
  """A client's training examples.

  Attributes:
    client: id of the client, int32.
    size: number of examples, int32.
    batch: (step, batch_size=None, take=None) -> batch of a step, counted from the start of the run.
      The batch has ``batch_size`` examples: ``take`` drawn ones and padding. By default,
      ``batch_size`` is the configuration's, and ``take`` is as many as the epoch has left.
  """

  client: Array
  size: Array
  batch: Callable[..., Batch]


def _only_for_clients(*arguments: Any, **options: Any) -> Any:
  raise TypeError("train and gradient of a context work only in the client function.")


class Context(NamedTuple):
  """What a client and the server know about a round.

  Attributes:
    num_clients: population K, an int.
    participants: number of clients in the round, float32.
    round: index of the round, int32.
    rate: learning rate eta of the clients, float32.
    theta: communication threshold (paper 004), float32; 0 for algorithms without a threshold.
    train: (variables, examples, steps, optimizer_state=None, correction=None, extra_loss=None) ->
      ``local_training.ClientOutput``: takes local steps, in ``client`` only. See
      ``local_training.make_client_update``. Without ``optimizer_state``, it uses the state that the
      client stored, or a new one.
    gradient: (variables, examples, batch_size=None, take=None) -> (gradient of the mean loss of one
      batch, ``local_training.ClientOutput``), in ``client`` only.
  """

  num_clients: int
  participants: Array
  round: Array
  rate: Array
  theta: Array
  train: Callable[..., ClientOutput] = _only_for_clients
  gradient: Callable[..., tuple[PyTree, ClientOutput]] = _only_for_clients


class Update(NamedTuple):
  """What a client returns at the end of a round.

  Attributes:
    upload: pytree that the client sends; the server gets its mean over the clients of the round.
    weight: weight of the client in that mean and in the mean of batch statistics, a scalar.
    trained: result of ``context.train`` or ``context.gradient``: its batch statistics, optimizer
      state and metrics are used.
    client_state: state that the client stores until its next round.
  """

  upload: PyTree
  weight: Array
  trained: ClientOutput
  client_state: PyTree = ()


class Averaging(NamedTuple):
  """An algorithm in which the server averages the clients' uploads.

  Attributes:
    init: variables -> server state, a NamedTuple with a field ``variables``: the global model,
      which is evaluated and saved. The combined batch statistics are put into it after ``server``.
    client: (what the client downloads, client state, examples, context) -> :class:`Update`.
    server: (server state, mean upload, context) -> server state.
    init_client: server state -> initial state of a client.
    downlink: server state -> what each client downloads, any NamedTuple with a field ``variables``,
      the model to start from; ``client`` sees nothing else of the server.
    equal: keys of the upload, a dict, for which all clients have the same weight in the mean.
    uploads_gradient: whether the upload is the gradient that ``context.gradient`` returned, as it
      is. On an accelerator, the clients' weighted sum of losses is then differentiated instead: as
      they share one model, each convolution and its gradients run for all their images together.
      ``context.gradient`` returns a loss in place of its gradient there.
  """

  init: Callable[[Variables], PyTree]
  client: Callable[[Any, PyTree, ClientData, Context], Update]
  server: Callable[[Any, PyTree, Context], PyTree]
  init_client: Callable[[PyTree], PyTree] = lambda server: ()
  downlink: Callable[[Any], Any] = lambda server: server
  equal: tuple[str, ...] = ()
  uploads_gradient: bool = False


class Theta(NamedTuple):
  """The communication threshold theta (paper 004) of an algorithm.

  Attributes:
    values: (configuration, rounds) -> theta of each round.
    grid: values that SkewScout chooses from, from most to least communication.
    follows_rate: whether theta falls with the learning rate.
    is_sparsity: whether theta is the share of updates that is not sent, between 0 and 1.
    is_integer: whether theta is a whole number of local steps.
  """

  values: Callable[[Any, int], np.ndarray]
  grid: tuple[float, ...] = ()
  follows_rate: bool = False
  is_sparsity: bool = False
  is_integer: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
  """A row of the registry: an algorithm with its options and properties.

  Attributes:
    name: name of the algorithm on the command line and in ``fedjax_norm.run``.
    config: class of the options.
    build: (configuration, setup) -> algorithm.
    help: one sentence for the command line's help.
    defaults: default values of options that differ from those in ``config``.
    stepwise: whether a round is one step, so that the length of a run can be given in epochs.
    default_lengths: default of (rounds, eval_every) if ``stepwise``.
    all_clients: whether every client takes part in every round.
    one_process: whether the simulation supports only one process.
    sequential: configuration -> whether the clients of a round run sequentially.
    hidden_options: inherited options that have no effect; command lines have no flags for them.
    theta: communication threshold (paper 004); None for algorithms without a threshold.
    step_flops: (configuration, setup) -> floating-point operations of a client's local step; None
      if a client trains the whole model.
  """

  name: str
  config: type[LocalConfig]
  build: Callable[[Any, Setup], Averaging | Algorithm]
  help: str
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  stepwise: bool = False
  default_lengths: tuple[int, int] = (600, 50)
  all_clients: bool = False
  one_process: bool = False
  sequential: Callable[[Any], bool] = lambda config: False
  hidden_options: tuple[str, ...] = ()
  theta: Theta | None = None
  step_flops: Callable[[Any, Setup], float | np.ndarray] | None = None
