"""Who may talk to whom, and what becomes of a server that goes away."""

import socket
import threading
import time

import pytest
from experiments_helpers import free_port
from wire_world import identities

from fedjax_norm.errors import LostError, UserError
from fedjax_norm.wire import certificates
from fedjax_norm.wire.identity import Identity
from fedjax_norm.wire.transport import Caller, RefusedError, serving, split_address

ECHO = {"Echo": lambda name, data: name.encode() + b":" + data}


def test_the_name_is_the_certificates():
  with (
    serving("localhost:0", identities()["localhost"], ECHO, 1000) as port,
    Caller(f"localhost:{port}", identities()["alice1"]._replace(name="alice0"), 1000, 1) as call,
  ):
    assert call("Echo", b"hi") == b"alice1:hi"
    assert (call.sent, call.received) == (2, 9)
    with pytest.raises(RefusedError, match="larger than the other end takes"):
      call("Echo", b"x" * 10**6)


def test_a_stranger_is_refused_and_told_so():
  authority, _, others = certificates.make(["localhost"], ["alice0"])
  true, stranger = identities()["localhost"], others["alice0"]
  with serving("localhost:0", true, ECHO, 1000) as port:
    for who, text in (
      (Identity("alice0", true.authority, *stranger), "refuses the certificate of 'alice0'"),
      (true, "refuses the certificate of 'localhost'"),  # a server's is no client's
      (Identity("alice0", authority, *stranger), "is not to be trusted"),
    ):
      with (
        Caller(f"localhost:{port}", who, 1000, 5) as call,
        pytest.raises(UserError, match=text) as error,
      ):
        call("Echo", b"hi")
      assert not isinstance(error.value, LostError)
    # An Alice cannot pass for the server, nor the server for another host.
    with (
      Caller(f"127.0.0.1:{port}", identities()["alice0"], 1000, 5) as call,
      pytest.raises(UserError, match="not to be trusted"),
    ):
      call("Echo", b"hi")
  with (
    serving("localhost:0", identities()["alice1"], ECHO, 1000) as port,
    Caller(f"localhost:{port}", identities()["alice0"], 1000, 5, "alice1") as peer,
    Caller(f"localhost:{port}", identities()["alice0"], 1000, 5) as call,
  ):
    assert peer("Echo", b"") == b"alice0:"
    with pytest.raises(UserError, match="not to be trusted"):
      call("Echo", b"hi")


def test_a_server_that_comes_back_is_found_again():
  address, told = f"localhost:{free_port()}", []
  back = threading.Event()

  def later():
    time.sleep(0.3)
    with serving(address, identities()["localhost"], ECHO, 1000):
      back.wait(10)

  thread = threading.Thread(target=later)
  thread.start()
  with Caller(address, identities()["alice0"], 1000, 20, told=told.append) as call:
    assert call("Echo", b"hi") == b"alice0:hi"
  back.set()
  thread.join()
  assert told == [f"{address} cannot be reached; trying again."]
  with (
    Caller(address, identities()["alice0"], 1000, 0.1) as call,
    pytest.raises(LostError, match=r"cannot be reached for 0\.1 seconds"),
  ):
    call("Echo", b"hi")


def test_addresses_are_checked():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
      pytest.raises(UserError, match="nobody can listen"),
      serving(address, identities()["localhost"], ECHO, 1000),
    ):
      pass
  assert split_address("host:80") == ("host", 80)
  for wrong in ("host", "host:x", ":80", "host:70000"):
    with pytest.raises(UserError, match="no address"):
      split_address(wrong)
