"""Parses network addresses, and finds out which side of a connection rejects a certificate."""

import re
import socket
import ssl

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol.identity import Identity

_HOST = r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,16})?\]"
_ADDRESS = re.compile(rf"({_HOST}):([0-9]{{1,5}})")


def check_handshake(address: str, identity: Identity, name: str | None = None) -> None:
  """Makes a TLS handshake, because gRPC reports a rejected certificate as an unreachable server.

  Raises ``UserError`` if one side rejects the other's certificate, and nothing if the server cannot
  be reached. ``name`` is the name on the server's certificate, if it is not the host name.
  """
  host, _, port = address.rpartition(":")
  context = ssl.create_default_context(cadata=identity.authority.decode())
  context.set_alpn_protocols(["h2"])
  try:
    context.load_cert_chain(*identity.files)  # ssl reads certificates from files only
  except OSError:
    return  # the files were moved, so the handshake cannot be made

  def rejected() -> bool:
    # A server that accepts the client sends first. A server that rejects the client's certificate
    # closes the connection after the handshake.
    try:
      with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=2) as plain,
        context.wrap_socket(plain, server_hostname=name or host.strip("[]")) as connection,
      ):
        return not connection.recv(1)
    except ssl.SSLCertVerificationError as error:
      raise UserError(
        f"the certificate of {address} is not trusted ({error.verify_message}); check the "
        "address and --authority."
      ) from error
    except (OSError, ValueError):
      return False

  if rejected() and rejected():  # a server that is stopping closes a connection too, but only once
    raise UserError(
      f"{address} rejects the certificate of {identity.name!r}; use a certificate made by the "
      "server's authority."
    )


def split_address(address: str, least: int = 1) -> tuple[str, int]:
  """Splits HOST:PORT into the host (an IPv6 address in brackets) and the port.

  Args:
    address: the text to split.
    least: the lowest port; 0 for an address to listen at, where port 0 means any free port.

  Raises:
    UserError: the text is not HOST:PORT, or the port is out of range.
  """
  match = _ADDRESS.fullmatch(address)
  if not match or not least <= int(match[2]) < 2**16:
    raise UserError(
      f"{address[:300]!r} is not an address; write HOST:PORT, with a port from {least} to 65535."
    )
  return match[1], int(match[2])
