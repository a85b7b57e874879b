"""Addresses, and what a TLS handshake tells that gRPC does not."""

import re
import socket
import ssl

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol.identity import Identity

_HOST = r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,16})?\]"
_ADDRESS = re.compile(rf"({_HOST}):([0-9]{{1,5}})")


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
  try:
    context.load_cert_chain(*identity.files)  # which ssl reads from files alone
  except OSError:
    return  # they have been moved, and we learn no more

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


def split_address(address: str, least: int = 1) -> tuple[str, int]:
  """Splits HOST:PORT.

  Args:
    address: the text; an IPv6 address stands in brackets.
    least: the least port; 0 to listen at, where it means any that is free.

  Returns:
    The host and the port.

  Raises:
    UserError: it is something else.
  """
  found = _ADDRESS.fullmatch(address)
  if not found or not least <= int(found[2]) < 2**16:
    raise UserError(
      f"{address[:300]!r} is no address; write HOST:PORT, with a port from {least} to 65535."
    )
  return found[1], int(found[2])
