"""A small folder of images, and its conversion."""

from pathlib import Path

from helpers.small_data import flat, write

from fedjax_norm import options
from fedjax_norm.cli.commands import convert


def run(data: str, to: Path, **given) -> None:
  given = {"progress": False, **given}
  convert.run(options.make(convert.ConvertFlags, data=data, to=str(to), **given))


def write_clients(root, clients=("ann", "caf\u00e9"), classes=("bee", "ant"), count=4):
  for k, client in enumerate(clients):
    for c, name in enumerate(classes):
      for i in range(count):
        write(root / client / name / f"{i}.png", flat(60 * k + 30 * c + i, 5))


def folder(root):
  write_clients(root / "Train")
  write_clients(root / "val", ("caf\u00e9", "zoe"), count=2)  # zoe has no training images
  return f"folder:{root}", "classification"
