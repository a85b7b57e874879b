"""The server of split learning over a network: ``python -m experiments.split_server``."""

import time
from pathlib import Path

import jax
import numpy as np

from fedjax_norm import number_parsing
from fedjax_norm.cli.wire import build
from fedjax_norm.cli.wire.options import ServerFlags
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table
from fedjax_norm.wire.protocol import fields
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.serving import serving
from fedjax_norm.wire.server.server import Server
from fedjax_norm.wire.server.state import RunSettings
from fedjax_norm.wire.server.store import Totals

_GRACE = 1.0  # seconds in which clients can still fetch the last answers


def main(config: ServerFlags) -> None:
  """Runs the server until all turns are over, and writes its weights, metrics and summary."""
  names = tuple(config.client_names.split(",")) if config.client_names else ()
  if not names or len(set(names)) < len(names) or not all(map(fields.name, names)):
    raise UserError("give the names on the clients' certificates as --client_names=alice0,alice1.")
  split_address(config.listen, least=0)
  shape, classes = image_shape(config.image_shape), config.classes
  if classes is None:
    raise UserError("give the number of --classes, which the server cannot count without data.")
  identity = build.load_identity(config, client=False)
  network = build.build_network(config, shape, classes)
  sent = {**build.server_settings(config), "image_shape": list(shape), "classes": classes}
  rates = build.make_rates(config, int(network.rules.steps(np.int64(1))))
  key, peer = jax.random.key(config.seed), config.hand_over == "peer"
  settings = RunSettings(
    network, identity.authority, names, sent, rates, key, config.patience, peer, build.limit(config)
  )
  rounds, path = config.rounds, Path(config.workdir or "runs/split_server").expanduser()
  with RunFolder.open(path, config.saved(), config.resume, config.wait_for_workdir) as folder:

    def on_round(round: int, totals: Totals) -> None:
      if round % config.eval_every == 0 or round == rounds:
        row = metrics_row(round, totals, labelled=config.tail is None)
        append(folder, row)
        loss = f", training loss {row['train_loss']:.4f}" if "train_loss" in row else ""
        build.print_status(f"round {round:,} of {rounds:,} is over{loss}.")

    server = Server(settings, folder.path, on_round, notify=build.print_status)
    folder.drop_rows_after(server.state.round)
    with serving(config.listen, identity, server.methods(), settings.limit, len(names)) as port:
      run, turn = server.state.membership.run, server.state.committed.turn
      build.print_status(f"listening at port {port} for {', '.join(names)}; run {run}.")
      if turn:
        build.print_status(f"resuming after turn {turn:,} of {server.state.num_turns:,}.")
      while not server.finished():
        if server.failure:
          raise server.failure
        time.sleep(_GRACE / 10)
      time.sleep(max(_GRACE, config.linger))
    committed, totals = server.state.committed, server.state.committed.totals
    build.save_part(folder.path / "body.npz", committed.part.variables)
    row = metrics_row(rounds, totals, labelled=False)
    folder.write_summary({**row, "seconds": totals.seconds})
    pairs = [
      ("rounds", f"{rounds:,} of {len(names)} clients"),
      ("turns", f"{totals.turns:,}, and {totals.passed:,} passed on"),
      ("steps", f"{totals.steps:,}"),
      ("received", human_bytes(totals.up)),
      ("sent", human_bytes(totals.down)),
      ("time of turns", human_seconds(totals.seconds)),
      ("folder", str(folder.path)),
    ]
    print(summary_table("Server", pairs))


def append(folder: RunFolder, row: dict[str, int | float]) -> None:
  """Adds a round's row to the metrics, in place of rows that a stopped server left from here on."""
  if any(old["round"] >= row["round"] for old in folder.rows()):
    folder.drop_rows_after(int(row["round"]) - 1)
  folder.append(row)


def metrics_row(round: int, totals: Totals, *, labelled: bool) -> dict[str, int | float]:
  """Returns a row of ``metrics.csv``; ``labelled`` adds the training loss and accuracy."""
  row: dict[str, int | float] = {
    "round": round,
    "turns": totals.turns,
    "passed": totals.passed,
    "steps": totals.steps,
    "bytes_up": totals.up,
    "bytes_down": totals.down,
  }
  if labelled:
    count = max(totals.examples, 1)
    row |= {"train_loss": totals.loss / count, "train_top1": totals.correct / count}
  return row


def image_shape(text: str | None) -> build.Shape:
  """Parses --image_shape, the text HxWxC, to (H, W, C)."""
  sides = (text or "").split("x")
  try:
    height, width, channels = map(number_parsing.parse_int, sides)
  except ValueError:
    height = width = channels = 0
  if min(height, width, channels) < 1:
    raise UserError(f"--image_shape is {text!r}; give height, width and channels, as in 28x28x1.")
  return height, width, channels
