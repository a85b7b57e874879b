"""Calls a server by gRPC with mutual TLS; repeats calls while the server cannot be reached."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable

from fedjax_norm.errors import LostError
from fedjax_norm.wire.protocol.addresses import check_handshake
from fedjax_norm.wire.protocol.grpc_setup import SERVICE, channel_options, grpc
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.remote_errors import FailedError, OutOfOrderError, RefusedError

Notify = Callable[[str], None]
"""A callback that receives status lines."""

COMPUTING = 600.0
"""Seconds to wait for an answer that needs computation or has many bytes."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds before a call is repeated
_MAX_DETAILS = 2000  # characters of an error from the other end
_MIN_TIMEOUT = 5.0  # seconds to wait for any answer, even with a shorter --patience


class _UnreachableError(LostError):
  """The server cannot be reached now; the call can be repeated."""


class Caller:
  """Calls the methods of one server; a context manager that closes the connection.

  Attributes:
    sent: bytes of the requests that were answered, by method name.
    received: bytes of the answers, by method name.
  """

  def __init__(
    self,
    address: str,
    identity: Identity,
    limit: int,
    patience: float,
    name: str | None = None,
    notify: Notify = lambda text: None,
  ):
    """Prepares the connection; nothing is sent yet.

    Args:
      address: HOST:PORT of the server.
      identity: the client's certificate and private key.
      limit: largest number of bytes in an answer.
      patience: seconds to try again while the server is unreachable, and to wait for an answer.
      name: the name on the server's certificate, if it is not the host name.
      notify: receives a status line when the connection is lost.
    """
    self._address, self._identity, self._name = address, identity, name
    self._patience, self._notify = patience, notify
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
    options = [*channel_options(limit), *override, *waits, ("grpc.use_local_subchannel_pool", 1)]
    self._channel = grpc.secure_channel(address, credentials, options)

  def __call__(self, method: str, request: bytes, seconds: float = 0.0) -> bytes:
    """Returns a method's answer; repeats the call while the server cannot be reached.

    Args:
      method: name of the method.
      request: bytes of the request.
      seconds: time to wait for the answer, if longer than the patience.

    Raises:
      OutOfOrderError: the server expects another request now.
      RefusedError: the server refuses the request, or (FailedError) cannot carry it out.
      UserError: one side rejects the other's certificate.
      LostError: the server cannot be reached within the patience, or does not answer in time.
    """
    until, wait, lost = time.monotonic() + self._patience, _FIRST_WAIT, False
    while True:
      with contextlib.suppress(_UnreachableError):
        return self.once(method, request, max(seconds, self._patience))
      check_handshake(self._address, self._identity, self._name)
      now = time.monotonic()
      if not lost:
        self._notify(f"{self._address} cannot be reached; trying again.")
        until = max(until, now + self._patience / 2)  # it may have computed for long before
      if now > until:
        raise LostError(
          f"{self._address} cannot be reached for {self._patience:g} seconds; start the party "
          "there, and then run this command again."
        )
      lost = True
      time.sleep(wait)
      wait = min(2 * wait, _LONGEST_WAIT)

  def once(self, method: str, request: bytes, seconds: float = 0.0) -> bytes:
    """Calls a method without repetition, with the arguments and errors of :meth:`__call__`."""
    seconds = max(seconds, _MIN_TIMEOUT)
    try:
      answer = self._channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=seconds)
    except grpc.RpcError as error:
      # Text from the other end must not control the terminal.
      text = (error.details() or "")[:_MAX_DETAILS]
      code, details = error.code(), "".join(c if c.isprintable() else "?" for c in text)
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
        f"{self._address} has not answered {method} for {seconds:g} seconds; find out what delays "
        "it, and then run this command again."
      )
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
      raise RefusedError(
        f"a message of {method} is larger than the other end accepts ({details}); raise "
        "--max_megabytes on both sides, or lower --batch_size at the server."
      )
    if code == grpc.StatusCode.ABORTED:
      raise FailedError(f"{method} has failed at {self._address}: {details}")
    raise RefusedError(f"{self._address} refuses {method}: {details}")

  def __enter__(self) -> "Caller":
    return self

  def __exit__(self, *_: object) -> None:
    self._channel.close()
