"""Runs commands of the project without importing its packages anew for each of them.

``python fork_server.py SOCKET`` is the server: it imports what training needs and forks a process
for each command. ``python fork_server.py SOCKET -m experiments.NAME FLAGS`` has a command run
there, with this process's folder, environment, input and output, and ends with its exit code; it
imports only what stands here, because that takes a hundredth of the time.
"""

import json
import os
import socket
import sys


def ask(path: str, words: list[str]) -> int:
  """Has the server run ``python WORDS`` and returns the exit code."""
  with socket.socket(socket.AF_UNIX) as server:
    server.connect(path)
    request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    answer = server.recv(1)
  return answer[0] if answer else 1


def serve(path: str) -> None:
  """Waits for requests and runs each in a process of its own."""
  import signal

  from fedjax_norm.cli import train  # noqa: F401 (for its imports)

  signal.signal(signal.SIGCHLD, signal.SIG_IGN)
  with socket.socket(socket.AF_UNIX) as server:
    server.bind(path)
    server.listen()
    while True:
      connection, _ = server.accept()
      if os.fork() == 0:
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run(connection)
      connection.close()


def run(connection: socket.socket) -> None:
  """Runs the command that a client asks for, sends the exit code, and ends this process."""
  import importlib
  import traceback

  code = 1
  try:
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
      request += connection.recv(65536)
    words, folder, environment = json.loads(request)
    for number, file in enumerate(files):
      os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    name = words[1].removeprefix("experiments.")
    sys.argv = [words[1], *words[2:]]
    sys.orig_argv = [sys.executable, *words]
    importlib.import_module(f"fedjax_norm.cli.commands.{name}").launch()
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(code)


if __name__ == "__main__":
  if len(sys.argv) == 2:
    serve(sys.argv[1])
  sys.exit(ask(sys.argv[1], sys.argv[2:]))
