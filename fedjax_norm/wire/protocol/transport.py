"""gRPC with mutual TLS: bytes in, bytes out, and who is at the other end."""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures

# gRPC would tell of every failed handshake on the terminal, beside our own sentence. It reads this
# when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.wire.protocol import fields
from fedjax_norm.wire.protocol.addresses import check_handshake
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.refusals import FailedError, OutOfOrderError, RefusedError

if os.environ["GRPC_VERBOSITY"] == "NONE":  # or the gRPC inside of JAX would be silent too
  del os.environ["GRPC_VERBOSITY"]

Method = Callable[[str, bytes], bytes]
"""(the caller's name, as its certificate says; the request) -> the answer."""

_SERVICE = "fedjax_norm.Split"
_SPARE = 2**16  # of gRPC's own limit, so that ours is the one that speaks
_WORKERS = 16  # beside those of the callers who wait for an answer
_STREAMS = 4  # requests at once of a caller; a party makes one after another, and few beside them
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_LONGEST_DETAILS = 2000  # characters of a refusal
_SOONEST = 5.0  # seconds that a quick answer may take at least, whatever the patience
# A connection whose other end is silent for twice as long is closed. Whoever computes answers.
_ALIVE = 20_000  # milliseconds

COMPUTING = 600.0
"""Seconds that an answer may take for which the other end computes, or of many bytes."""


class _UnreachableError(LostError):
  """Nobody is there, so that it can be tried again."""


def _limits(limit: int) -> list[tuple[str, int]]:
  size = limit + _SPARE
  return [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]


_KEEPALIVE = [
  ("grpc.keepalive_time_ms", _ALIVE),
  ("grpc.keepalive_timeout_ms", _ALIVE),
  ("grpc.http2.ping_timeout_ms", _ALIVE),  # else a minute, which the other yields to
  ("grpc.keepalive_permit_without_calls", 1),
  ("grpc.http2.max_pings_without_data", 0),
  ("grpc.http2.min_ping_interval_without_data_ms", _ALIVE // 2),
]


@contextlib.contextmanager
def serving(
  address: str, identity: Identity, methods: Mapping[str, Method], limit: int, waiting: int = 0
) -> Iterator[int]:
  """Answers requests while the context lasts; gives the port.

  Args:
    address: HOST:PORT to listen at; port 0 is any that is free.
    identity: of the server. Callers need a client's certificate of its authority.
    methods: by name.
    limit: the most bytes of a request.
    waiting: how many callers may wait for an answer at once.

  Raises:
    UserError: the address cannot be listened at.
  """
  server = grpc.server(
    futures.ThreadPoolExecutor(_WORKERS + waiting),
    options=[
      *_limits(limit),
      *_KEEPALIVE,
      ("grpc.max_concurrent_streams", _STREAMS),
      ("grpc.so_reuseport", 0),
    ],
  )
  admitted = _admission()
  handlers = {
    name: grpc.stream_unary_rpc_method_handler(_handler(method, admitted))
    for name, method in methods.items()
  }
  server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
  credentials = grpc.ssl_server_credentials(
    [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
  )
  try:
    port = server.add_secure_port(address, credentials)
  except RuntimeError as error:
    raise UserError(
      f"nobody can listen at {address!r}: the address is taken, not this machine's, or not "
      "HOST:PORT; give another one."
    ) from error
  server.start()
  try:
    yield port
  finally:
    server.stop(1).wait()


_Admission = Callable[[str], contextlib.AbstractContextManager[None]]


def _admission() -> _Admission:
  """Who has a request answered; few at once of one name, which so cannot hold all threads."""
  lock, held = threading.Lock(), Counter[str]()

  @contextlib.contextmanager
  def admitted(name: str) -> Iterator[None]:
    with lock:
      if held[name] >= _STREAMS:
        raise UserError(
          f"{name!r} has {_STREAMS} requests open already, the most that one certificate may; "
          "wait for their answers, or give each process a certificate of its own."
        )
      held[name] += 1
    try:
      yield
    finally:
      with lock:
        held[name] -= 1

  return admitted


def _handler(
  method: Method, admitted: _Admission
) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
  # A stream, of one message, is handed over before that has come: who sends none is counted too.
  def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    names = context.auth_context().get("x509_common_name", [b""])
    name = names[0].decode(errors="replace")
    try:
      if not fields.name(name):
        raise UserError(
          "the name on a client's certificate must be short and printable; use a certificate that "
          "experiments.certificates made."
        )
      with admitted(name):
        message = _only(messages)
        return b"" if message is None else method(name, message)
    except UserError as error:
      context.abort(_code_of(error), str(error))
      raise AssertionError from error  # abort has raised

  return handle


def _code_of(error: UserError) -> grpc.StatusCode:
  """The code that tells the other end of an error."""
  match error:
    case OutOfOrderError():
      return grpc.StatusCode.FAILED_PRECONDITION
    case DivergedError() | LostError():
      return grpc.StatusCode.ABORTED
  return grpc.StatusCode.INVALID_ARGUMENT


def _only(messages: Iterator[bytes]) -> bytes | None:
  """The message of a request; None if it has not come, as of one that gRPC finds too large."""
  try:
    return next(messages, b"")
  except grpc.RpcError as error:
    error.__traceback__ = None  # it holds the call, whose stream would stay open as long
    return None


class Caller:
  """One server, as a client sees it; a context manager.

  Attributes:
    sent: bytes of the requests that were answered, by method.
    received: bytes of the answers.
  """

  def __init__(
    self,
    address: str,
    identity: Identity,
    limit: int,
    patience: float,
    name: str | None = None,
    told: Callable[[str], None] = lambda text: None,
  ):
    """Prepares to call; nothing is sent yet.

    Args:
      address: HOST:PORT.
      identity: of the client.
      limit: the most bytes of an answer.
      patience: seconds for which a server that cannot be reached is tried again, and one that
        does not answer is waited for.
      name: the server's, where it is not its host's.
      told: gets a sentence when the server is lost.
    """
    self._address, self._identity, self._name = address, identity, name
    self._limit, self._patience, self._told = limit, patience, told
    self.sent: Counter[str] = Counter()
    self.received: Counter[str] = Counter()
    credentials = grpc.ssl_channel_credentials(
      identity.authority, identity.key, identity.certificate
    )
    override = [("grpc.ssl_target_name_override", name)] if name else []
    waits = [
      ("grpc.initial_reconnect_backoff_ms", int(1000 * _FIRST_WAIT)),
      ("grpc.min_reconnect_backoff_ms", int(1000 * _FIRST_WAIT)),
      ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_WAIT)),
    ]
    self._channel = grpc.secure_channel(
      address,
      credentials,
      [*_limits(limit), *_KEEPALIVE, *override, *waits, ("grpc.use_local_subchannel_pool", 1)],
    )

  def __call__(self, method: str, request: bytes, seconds: float = 0.0) -> bytes:
    """Calls a method; what cannot be reached is tried again, later and later.

    Args:
      method: its name.
      request: to it.
      seconds: that the answer may take, where that is more than the patience.

    Raises:
      OutOfOrderError: the server expects something else.
      RefusedError: the server refuses the request, or (FailedError) cannot do it.
      UserError: one of the two does not trust the other's certificate.
      LostError: the server cannot be reached for longer than the patience, or does not answer.
    """
    until = time.monotonic() + self._patience
    wait, lost = _FIRST_WAIT, False
    while True:
      with contextlib.suppress(_UnreachableError):
        return self.once(method, request, max(seconds, self._patience))
      check_handshake(self._address, self._identity, self._name)
      now = time.monotonic()
      if not lost:
        self._told(f"{self._address} cannot be reached; trying again.")
        until = max(until, now + self._patience / 2)  # it may have computed for long before
      if now > until:
        raise LostError(
          f"{self._address} cannot be reached for {self._patience:g} seconds; start it, and then "
          "this again with the same flags."
        )
      lost = True
      time.sleep(wait)
      wait = min(2 * wait, _LONGEST_WAIT)

  def once(self, method: str, request: bytes, seconds: float = 0.0) -> bytes:
    """Calls a method without trying again.

    Args:
      method: its name.
      request: to it.
      seconds: that the answer may take, where that is more than a moment.

    Raises:
      OutOfOrderError: the server expects something else.
      RefusedError: the server refuses the request.
      LostError: the server cannot be reached, or does not answer.
    """
    seconds = max(seconds, _SOONEST)
    try:
      call = self._channel.unary_unary(f"/{_SERVICE}/{method}")
      answer = call(request, timeout=seconds)
    except grpc.RpcError as error:
      # What the other end says must not control the terminal.
      said = (error.details() or "")[:_LONGEST_DETAILS]
      code, details = error.code(), "".join(c if c.isprintable() else "?" for c in said)
    else:
      self.sent[method] += len(request)
      self.received[method] += len(answer)
      return answer
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
      raise _UnreachableError(f"{self._address} cannot be reached; start it.")
    if code == grpc.StatusCode.FAILED_PRECONDITION:
      raise OutOfOrderError(details)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
      raise LostError(
        f"{self._address} has not answered {method} for {seconds:g} seconds; see what holds it "
        "up, and then start this again with the same flags."
      )
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
      raise RefusedError(
        f"a message of {method} is larger than the other end takes ({details}); raise its "
        "--max_megabytes or send smaller batches."
      )
    if code == grpc.StatusCode.ABORTED:
      raise FailedError(f"{method} has failed at {self._address}: {details}")
    raise RefusedError(f"{self._address} refuses {method}: {details}")

  def __enter__(self) -> "Caller":
    return self

  def __exit__(self, *_) -> None:
    self._channel.close()
