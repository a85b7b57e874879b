"""Serves methods by gRPC with mutual TLS; a method gets the caller's name and the request."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures

from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.wire.protocol import fields
from fedjax_norm.wire.protocol.grpc_setup import SERVICE, channel_options, grpc
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.remote_errors import OutOfOrderError

Method = Callable[[str, bytes], bytes]
"""(the name on the caller's certificate, bytes of the request) -> bytes of the answer."""

_WORKERS = 16  # threads in addition to those for callers that wait for an answer
_STREAMS = 4  # concurrent requests of a caller; most are sequential

_Limiter = Callable[[str], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def serving(
  address: str, identity: Identity, methods: Mapping[str, Method], limit: int, waiting: int = 0
) -> Iterator[int]:
  """Answers requests inside the ``with`` block, and yields the port.

  Args:
    address: HOST:PORT to listen at; port 0 means any free port.
    identity: the server's certificate and key. Callers need a client certificate of its authority.
    methods: functions that answer the requests, by the method's name.
    limit: largest number of bytes in a request.
    waiting: number of callers that may wait for a delayed answer at the same time.

  Raises:
    UserError: the process cannot listen at the address.
  """
  options = ("grpc.max_concurrent_streams", _STREAMS), ("grpc.so_reuseport", 0)
  pool = futures.ThreadPoolExecutor(_WORKERS + waiting)
  server = grpc.server(pool, options=[*channel_options(limit), *options])
  limiter = _request_limiter()
  handlers = {
    name: grpc.stream_unary_rpc_method_handler(_handler(method, limiter))
    for name, method in methods.items()
  }
  server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
  credentials = grpc.ssl_server_credentials(
    [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
  )
  try:
    port = server.add_secure_port(address, credentials)
  except RuntimeError as error:
    raise UserError(
      f"cannot listen at {address!r}: the address is in use, not one of this machine, or not "
      "HOST:PORT; give another --listen."
    ) from error
  server.start()
  try:
    yield port
  finally:
    server.stop(1).wait()


def _request_limiter() -> _Limiter:
  """Limits the concurrent requests of each name, so that one party cannot occupy all threads."""
  lock, open_requests = threading.Lock(), Counter[str]()

  @contextlib.contextmanager
  def limiter(name: str) -> Iterator[None]:
    with lock:
      if open_requests[name] >= _STREAMS:
        raise UserError(
          f"{name!r} already has {_STREAMS} open requests, the limit for one certificate; wait for "
          "their answers, or give each process a different certificate."
        )
      open_requests[name] += 1
    try:
      yield
    finally:
      with lock:
        open_requests[name] -= 1

  return limiter


def _handler(
  method: Method, limiter: _Limiter
) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
  # gRPC passes a stream (here of one message) on before its message has arrived. So requests
  # without a message are counted as well.
  def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    names = context.auth_context().get("x509_common_name", [b""])
    name = names[0].decode(errors="replace")
    try:
      if not fields.name(name):
        raise UserError(
          "the name on a client's certificate must be short and printable; use a certificate that "
          "experiments.certificates made."
        )
      with limiter(name):
        message = _single_message(messages)
        return b"" if message is None else method(name, message)
    except UserError as error:
      context.abort(_status_code(error), str(error))
      raise AssertionError from error  # abort has raised

  return handle


def _status_code(error: UserError) -> grpc.StatusCode:
  """Returns the status code that reports an error to the caller."""
  match error:
    case OutOfOrderError():
      return grpc.StatusCode.FAILED_PRECONDITION
    case DivergedError() | LostError():
      return grpc.StatusCode.ABORTED
  return grpc.StatusCode.INVALID_ARGUMENT


def _single_message(messages: Iterator[bytes]) -> bytes | None:
  """Returns the message of a request, or None if gRPC refused it, for example as too large."""
  try:
    return next(messages, b"")
  except grpc.RpcError as error:
    error.__traceback__ = None  # it refers to the call and would keep the stream open
    return None
