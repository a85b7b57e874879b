"""Bob: ``python -m experiments.split_server --client_names=alice0,alice1 --image_shape=8x8x1 ...``.

The server of split learning over a real network (paper 003, sec. 4): it holds the body of the
model, sees activations, gradients and (without ``--tail``) labels, and says whose turn it is. The
same command goes on where a killed one stopped.
"""

import time
from pathlib import Path

import jax
import numpy as np

from fedjax_norm import number_text
from fedjax_norm.cli import app
from fedjax_norm.cli.wire import build
from fedjax_norm.cli.wire.options import ServerFlags
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table
from fedjax_norm.wire.protocol import fields
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.transport import serving
from fedjax_norm.wire.server.server import Bob
from fedjax_norm.wire.server.state import Setting
from fedjax_norm.wire.server.store import Totals

_GRACE = 1.0  # seconds for the last answers to be asked for


def main(config: ServerFlags) -> None:
  """Serves one run."""
  names = tuple(config.client_names.split(",")) if config.client_names else ()
  if not names or len(set(names)) < len(names) or not all(map(fields.name, names)):
    raise UserError("give the names on the clients' certificates as --client_names=alice0,alice1.")
  split_address(config.listen, least=0)
  shape, classes = image_shape(config.image_shape), config.classes
  if classes is None:
    raise UserError("give the number of --classes; the server sees no data to count them in.")
  identity = build.own_identity(config, client=False)
  network = build.make_network_of(config, shape, classes)
  setting = Setting(
    network,
    identity.authority,
    names,
    {**build.told(config), "image_shape": list(shape), "classes": classes},
    build.make_rates(config, int(network.rules.steps(np.int64(1)))),
    jax.random.key(config.seed),
    config.patience,
    config.hand_over == "peer",
    build.limit(config),
  )
  rounds, path = config.rounds, Path(config.workdir or "runs/split_server").expanduser()
  with RunFolder.open(path, config.saved(), config.resume, config.wait_for_workdir) as folder:

    def on_round(round: int, totals: Totals) -> None:
      if round % config.eval_every == 0 or round == rounds:
        told = row(round, totals, labelled=config.tail is None)
        append(folder, told)
        loss = f", training loss {told['train_loss']:.4f}" if "train_loss" in told else ""
        build.say(f"round {round:,} of {rounds:,} is over{loss}.")

    bob = Bob(setting, folder.path, on_round, say=build.say)
    folder.drop_rows_after(bob.state.round)
    methods = bob.methods()
    with serving(config.listen, identity, methods, setting.limit, len(names)) as port:
      build.say(f"listening at port {port} for {', '.join(names)}; run {bob.state.roll.run}.")
      if turn := bob.state.kept.turn:
        build.say(f"going on after turn {turn:,} of {bob.state.end:,}.")
      while not bob.deserted():
        if bob.failure:
          raise bob.failure
        time.sleep(_GRACE / 10)
      time.sleep(max(_GRACE, config.linger))
    kept = bob.state.kept
    totals = kept.totals
    build.save_part(folder.path / "body.npz", kept.part.variables)
    summary = {**row(rounds, totals, labelled=False), "seconds": totals.seconds}
    folder.write_summary(summary)
    pairs = [
      ("rounds", f"{rounds:,} of {len(names)} clients"),
      ("turns", f"{totals.turns:,}, and {totals.passed:,} passed on"),
      ("steps", f"{totals.steps:,}"),
      ("received", human_bytes(totals.up)),
      ("sent", human_bytes(totals.down)),
      ("time of turns", human_seconds(totals.seconds)),
      ("folder", str(folder.path)),
    ]
    print(summary_table("Bob", pairs))


def append(folder: RunFolder, row: dict[str, int | float]) -> None:
  """Adds a row, in place of one that was told of a turn that could not be kept."""
  if any(told["round"] >= row["round"] for told in folder.rows()):
    folder.drop_rows_after(int(row["round"]) - 1)
  folder.append(row)


def row(round: int, totals: Totals, *, labelled: bool) -> dict[str, int | float]:
  """A row of ``metrics.csv``.

  Args:
    round: that is over.
    totals: after it.
    labelled: whether the server knows how well the round's examples were classified.
  """
  told: dict[str, int | float] = {
    "turns": totals.turns,
    "passed": totals.passed,
    "steps": totals.steps,
    "bytes_up": totals.up,
    "bytes_down": totals.down,
  }
  if labelled:
    count = max(totals.examples, 1)
    told |= {"train_loss": totals.loss / count, "train_top1": totals.correct / count}
  return {"round": round, **told}


def image_shape(text: str | None) -> build.Shape:
  """(H, W, C) of HxWxC.

  Raises:
    UserError: it is something else.
  """
  sides = (text or "").split("x")
  try:
    height, width, channels = map(number_text.whole, sides)
  except ValueError:
    height = width = channels = 0
  if min(height, width, channels) < 1:
    raise UserError(f"--image_shape is {text!r}; give height, width and channels as 28x28x1.")
  return height, width, channels


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  app.run(main, ServerFlags)
