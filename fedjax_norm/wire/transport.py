"""gRPC with mutual TLS: bytes in, bytes out, and who is at the other end."""

import contextlib
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path

# gRPC would tell of every failed handshake on the terminal, beside our own sentence; it reads this
# when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from fedjax_norm.errors import LostError, UserError
from fedjax_norm.wire.identity import Identity

Method = Callable[[str, bytes], bytes]
"""(the caller's name, as its certificate says; the request) -> the answer."""

_SERVICE = "fedjax_norm.Split"
_SPARE = 2**16  # of gRPC's own limit, so that ours is the one that speaks
_WORKERS = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class OutOfOrderError(UserError):
  """A request that does not follow on what went before, so that its sender has to ask again."""


class RefusedError(UserError):
  """What the other end had to say against a request."""


_CODES = ((OutOfOrderError, grpc.StatusCode.FAILED_PRECONDITION),)


def _limits(limit: int) -> list[tuple[str, int]]:
  size = limit + _SPARE
  return [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]


@contextlib.contextmanager
def serving(
  address: str, identity: Identity, methods: Mapping[str, Method], limit: int
) -> Iterator[int]:
  """Answers requests while the context lasts; gives the port.

  Args:
    address: HOST:PORT to listen at; port 0 is any that is free.
    identity: of the server. Callers need a client's certificate of its authority.
    methods: by name.
    limit: the most bytes of a request.

  Raises:
    UserError: the address cannot be listened at.
  """
  server = grpc.server(
    futures.ThreadPoolExecutor(_WORKERS), options=[*_limits(limit), ("grpc.so_reuseport", 0)]
  )
  handlers = {
    name: grpc.unary_unary_rpc_method_handler(_handler(method)) for name, method in methods.items()
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


def _handler(method: Method) -> Callable[[bytes, grpc.ServicerContext], bytes]:
  def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
    names = context.auth_context().get("x509_common_name", [b""])
    try:
      return method(names[0].decode(), request)
    except UserError as error:
      codes = (code for kind, code in _CODES if isinstance(error, kind))
      context.abort(next(codes, grpc.StatusCode.INVALID_ARGUMENT), str(error))
      raise AssertionError from error  # abort has raised

  return handle


class Caller:
  """One server, as a client sees it; a context manager.

  Attributes:
    sent: bytes of all requests that were answered.
    received: bytes of all answers.
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
      patience: seconds for which a server that cannot be reached is tried again.
      name: the server's, where it is not its host's.
      told: gets a sentence when the server is lost.
    """
    self._address, self._identity, self._name = address, identity, name
    self._limit, self._patience, self._told = limit, patience, told
    self.sent = self.received = 0
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
      [*_limits(limit), *override, *waits, ("grpc.use_local_subchannel_pool", 1)],
    )

  def __call__(self, method: str, request: bytes) -> bytes:
    """Calls a method; what cannot be reached is tried again, later and later.

    Raises:
      OutOfOrderError: the server expects something else.
      RefusedError: the server refuses the request.
      UserError: one of the two does not trust the other's certificate.
      LostError: the server cannot be reached for longer than the patience.
    """
    call = self._channel.unary_unary(f"/{_SERVICE}/{method}")
    began, wait, lost = time.monotonic(), _FIRST_WAIT, False
    while True:
      try:
        answer = call(request)
        self.sent, self.received = self.sent + len(request), self.received + len(answer)
        return answer
      except grpc.RpcError as error:
        code, details = error.code(), error.details()
      if code == grpc.StatusCode.FAILED_PRECONDITION:
        raise OutOfOrderError(details)
      if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        raise RefusedError(
          f"a message of {method} is larger than the other end takes ({details}); raise its "
          "--max_megabytes or send smaller batches."
        )
      if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        raise RefusedError(f"{self._address} refuses {method}: {details}")
      check_handshake(self._address, self._identity, self._name)
      if time.monotonic() - began > self._patience:
        raise LostError(
          f"{self._address} cannot be reached for {self._patience:g} seconds; start it, and then "
          "this again with the same flags."
        )
      if not lost:
        self._told(f"{self._address} cannot be reached; trying again.")
      lost = True
      time.sleep(wait)
      wait = min(2 * wait, _LONGEST_WAIT)

  def __enter__(self) -> "Caller":
    return self

  def __exit__(self, *_) -> None:
    self._channel.close()


def check_handshake(address: str, identity: Identity, name: str | None = None) -> None:
  """Shakes hands once, for what gRPC does not tell: who of the two does not trust the other.

  Args:
    address: HOST:PORT.
    identity: of the client.
    name: the server's, where it is not its host's.

  Raises:
    UserError: one of them. That nobody answers is no matter here.
  """
  host, _, port = address.rpartition(":")
  context = ssl.create_default_context(cadata=identity.authority.decode())
  context.set_alpn_protocols(["h2"])
  with tempfile.TemporaryDirectory() as folder:  # ssl reads certificates from files alone
    own = Path(folder) / "own.pem"
    own.touch(mode=0o600)
    own.write_bytes(identity.certificate + identity.key)
    context.load_cert_chain(own)

  def turned_away() -> bool:
    # A server that accepts us speaks first; its verdict on our certificate comes after the
    # handshake, and is that it hangs up.
    try:
      with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=2) as plain,
        context.wrap_socket(plain, server_hostname=name or host.strip("[]")) as connection,
      ):
        return not connection.recv(1)
    except ssl.SSLCertVerificationError as error:
      raise UserError(
        f"the certificate of {address} is not to be trusted ({error.verify_message}); check the "
        "address and --authority."
      ) from error
    except (OSError, ValueError):
      return False

  if turned_away() and turned_away():  # one that is being stopped hangs up too, but once
    raise UserError(
      f"{address} refuses the certificate of {identity.name!r}; use one of its own authority."
    )


def split_address(address: str) -> tuple[str, int]:
  """(host, port) of HOST:PORT.

  Raises:
    UserError: it is something else.
  """
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or int(port) > 65535:
    raise UserError(f"{address!r} is no address; write HOST:PORT.")
  return host, int(port)
