"""Connections: certificates, limits, and servers that are lost."""

import contextlib
import gc
import socket
import ssl
import threading
import time
from concurrent import futures

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from helpers.binaries import free_port
from helpers.wire_world import identities, identity

from fedjax_norm.errors import LostError, UserError
from fedjax_norm.wire.protocol import caller, certificate_authority
from fedjax_norm.wire.protocol import serving as serving_module
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.protocol.remote_errors import RefusedError
from fedjax_norm.wire.protocol.serving import serving

ECHO = {"Echo": lambda name, data: name.encode() + b":" + data}


def test_the_callers_name_comes_from_its_certificate():
  with (
    serving("localhost:0", identities()["localhost"], ECHO, 1000) as port,
    Caller(f"localhost:{port}", identities()["alice1"]._replace(name="alice0"), 1000, 1) as call,
  ):
    assert call("Echo", b"hi") == b"alice1:hi"
    assert (call.sent["Echo"], call.received["Echo"]) == (2, 9)
    with pytest.raises(RefusedError, match="larger than the other end accepts"):
      call("Echo", b"x" * 10**6)


def test_messages_that_are_too_large_leave_nothing_open():
  with (
    serving("localhost:0", identities()["localhost"], ECHO, 1000) as port,
    Caller(f"localhost:{port}", identities()["alice1"], 10**6, 1) as call,
  ):
    gc.disable()  # it could close open streams
    try:
      for _ in range(4 * serving_module._STREAMS):
        with pytest.raises(RefusedError, match="larger than the other end accepts"):
          call("Echo", b"x" * 10**5)  # too large for the server
      assert call("Echo", b"hi") == b"alice1:hi"
    finally:
      gc.enable()


@pytest.mark.parametrize("name", ["carol\u00a0smith", "carol\nsmith", ""])
def test_an_unprintable_name_is_refused(monkeypatch, name):
  names = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
  make = certificate_authority._name
  monkeypatch.setattr(
    certificate_authority, "_name", lambda text: x509.Name(names) if text == "carol" else make(text)
  )
  authority, server, clients = certificate_authority.make(["localhost"], ["carol"])
  who = [identity(n, authority, pair) for n, pair in (("localhost", server), *clients.items())]
  with (
    serving("localhost:0", who[0], ECHO, 1000) as port,
    Caller(f"localhost:{port}", who[1], 1000, 1) as call,
    pytest.raises(RefusedError, match="must be short and printable"),
  ):
    call("Echo", b"hi")


def test_a_party_of_another_authority_is_refused_with_a_reason():
  authority, _, others = certificate_authority.make(["localhost"], ["alice0"])
  true, stranger = identities()["localhost"], others["alice0"]
  with serving("localhost:0", true, ECHO, 1000) as port:
    for who, text in (
      (identity("alice0", true.authority, stranger), "rejects the certificate of 'alice0'"),
      (true, "rejects the certificate of 'localhost'"),  # a server's certificate is not a client's
      (identity("alice0", authority, stranger), "is not trusted"),
    ):
      with (
        Caller(f"localhost:{port}", who, 1000, 5) as call,
        pytest.raises(UserError, match=text) as error,
      ):
        call("Echo", b"hi")
      assert not isinstance(error.value, LostError)
    # A client cannot pass for the server, nor the server for another host.
    with (
      Caller(f"127.0.0.1:{port}", identities()["alice0"], 1000, 5) as call,
      pytest.raises(UserError, match="is not trusted"),
    ):
      call("Echo", b"hi")
  with (
    serving("localhost:0", identities()["alice1"], ECHO, 1000) as port,
    Caller(f"localhost:{port}", identities()["alice0"], 1000, 5, "alice1") as peer,
    Caller(f"localhost:{port}", identities()["alice0"], 1000, 5) as call,
  ):
    assert peer("Echo", b"") == b"alice0:"
    with pytest.raises(UserError, match="is not trusted"):
      call("Echo", b"hi")


def test_a_server_that_returns_is_found_again():
  address, notices = f"localhost:{free_port()}", []
  back = threading.Event()

  def later():
    time.sleep(0.3)
    with serving(address, identities()["localhost"], ECHO, 1000):
      back.wait(10)

  thread = threading.Thread(target=later)
  thread.start()
  with Caller(address, identities()["alice0"], 1000, 20, notify=notices.append) as call:
    assert call("Echo", b"hi") == b"alice0:hi"
  back.set()
  thread.join()
  assert notices == [f"{address} cannot be reached; trying again."]
  with (
    Caller(address, identities()["alice0"], 1000, 0.1) as call,
    pytest.raises(LostError, match=r"cannot be reached for 0\.1 seconds"),
  ):
    call("Echo", b"hi")


def test_addresses_are_checked():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
      pytest.raises(UserError, match="cannot listen at"),
      serving(address, identities()["localhost"], ECHO, 1000),
    ):
      pass
  assert split_address("host:80") == ("host", 80)
  assert split_address("[::1]:0", least=0) == ("[::1]", 0)
  for wrong in ("host", "host:x", ":80", "host:70000", "host:0", "host:²", "host:-1", "host: 1",
                "host:" + "9" * 5000, "unix:a:1", "::1:80", "a\nb:1", "höst:1", "a" * 254 + ":1",
                "\ud800:1"):  # fmt: skip
    with pytest.raises(UserError, match="not an address"):
      split_address(wrong)


def test_calls_of_a_server_that_hangs_end(monkeypatch):
  go = threading.Event()
  methods = {"Hang": lambda name, data: b"%d" % go.wait(10)}
  monkeypatch.setattr(caller, "_MIN_TIMEOUT", 0.2)
  with serving("localhost:0", identities()["localhost"], methods, 1000) as port:
    with (
      Caller(f"localhost:{port}", identities()["alice0"], 1000, 0.1) as call,
      pytest.raises(LostError, match=r"has not answered Hang for 0\.2 seconds"),
    ):
      call("Hang", b"")
    go.set()


def test_one_caller_cannot_occupy_the_server():
  go, most = threading.Event(), serving_module._STREAMS
  begun = threading.Semaphore(0)

  def wait(name: str, data: bytes) -> bytes:
    begun.release()
    return b"%d" % go.wait(10)

  server = serving("localhost:0", identities()["localhost"], {**ECHO, "Wait": wait}, 1000)
  with server as port, contextlib.ExitStack() as stack, futures.ThreadPoolExecutor(most) as threads:

    def caller(name: str) -> Caller:
      return stack.enter_context(Caller(f"localhost:{port}", identities()[name], 1000, 5))

    waits = [threads.submit(caller("alice0"), "Wait", b"") for _ in range(most)]
    for _ in range(most):
      assert begun.acquire(timeout=10)
    with pytest.raises(RefusedError, match=f"'alice0' already has {most} open requests"):
      caller("alice0")("Echo", b"hi")  # over another connection
    # Requests that send headers and no message are counted as well.
    for _ in range(serving_module._WORKERS // most):
      stack.enter_context(hanging(port, 2 * most))
    with pytest.raises(RefusedError, match="'carol' already has"):
      caller("carol")("Echo", b"hi")
    assert caller("alice1")("Echo", b"hi") == b"alice1:hi"
    go.set()
    assert [one.result(10) for one in waits] == [b"1"] * most
    assert caller("alice0")("Echo", b"hi") == b"alice0:hi"


@contextlib.contextmanager
def hanging(port: int, requests: int):
  """Opens a connection with HTTP/2 requests that have no body."""
  who = identities()["carol"]
  context = ssl.create_default_context(cadata=who.authority.decode())
  context.set_alpn_protocols(["h2"])
  context.load_cert_chain(*who.files)
  pairs = {
    ":method": "POST",
    ":scheme": "https",
    ":path": "/fedjax_norm.Split/Echo",
    ":authority": "localhost",
    "content-type": "application/grpc",
    "te": "trailers",
  }
  fields = (bytes([len(text)]) + text.encode() for pair in pairs.items() for text in pair)
  block = b"".join(b"\0" + next(fields) + next(fields) for _ in pairs)
  with (
    socket.create_connection(("localhost", port)) as plain,
    context.wrap_socket(plain, server_hostname="localhost") as connection,
  ):
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4]) + bytes(5))
    for number in range(requests):
      head = len(block).to_bytes(3, "big") + b"\1\4" + (2 * number + 1).to_bytes(4, "big")
      connection.sendall(head + block)
    time.sleep(0.2)
    yield


def test_a_server_that_is_lost_after_long_work_is_tried_again(monkeypatch):
  answers = iter((caller._UnreachableError, None))

  def once(*_) -> bytes:
    if error := next(answers):
      time.sleep(0.5)
      raise error
    return b"ok"

  with Caller(f"localhost:{free_port()}", identities()["alice0"], 1000, 0.4) as call:
    monkeypatch.setattr(call, "once", once)
    assert call("Work", b"", 60.0) == b"ok"
