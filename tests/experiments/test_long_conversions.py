"""``experiments.convert`` with many images, and its kills."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.binaries import PYTHONPATH, ROOT, SMALL
from helpers.conversions import write_clients
from helpers.small_data import flat, write

_MEASURED = """
import resource, sys
from fedjax_norm import options
from fedjax_norm.cli.commands import convert
convert.run(options.make(convert.ConvertFlags, data=sys.argv[1], to=sys.argv[2], progress=False))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_megabytes(*arguments):
  words = [sys.executable, "-c", _MEASURED, *map(str, arguments)]
  printed = subprocess.check_output(words, env={**os.environ, "PYTHONPATH": PYTHONPATH}, text=True)
  return int(printed.split()[-1]) / 1024


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
  peaks = []
  for count in (10, 1000):
    write_clients(tmp_path / str(count), count=1)
    for path in list((tmp_path / str(count)).rglob("*.png")):
      write(path, flat(7, 256))
      for i in range(1, count):
        os.link(path, path.with_name(f"{i}.png"))
    peaks.append(peak_megabytes(f"folder:{tmp_path / str(count)}", tmp_path / f"new{count}"))
  size = sum(file.stat().st_size for file in (tmp_path / "new1000").iterdir()) / 2**20
  assert size > 700
  assert peaks[1] - peaks[0] < 60


@pytest.mark.long
def test_a_run_on_kept_bits_after_kills_is_that_on_the_files(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(1500):
    write(
      tmp_path / "own" / f"c{i % 4}" / f"k{i // 4 % 3}" / f"{i}.png", rng.integers(0, 255, (8, 8))
    )
  data, kills = f"folder:{tmp_path / 'own'}", 0
  command = [
    sys.executable,
    "-m",
    "experiments.convert",
    f"--data={data}",
    f"--to={tmp_path / 'new'}",
  ]
  for wait in (*rng.uniform(0, 1, 5), None):
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while wait is not None and process.poll() is None:
      if (tmp_path / "new.partial").exists():
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    kills += process.wait() == -signal.SIGKILL
  assert kills
  assert process.returncode == 0
  rows = {}
  for name in (data, f"npy:{tmp_path / 'new'}"):
    folder = tmp_path / name.partition(":")[0]
    flags = [*SMALL, f"--data={name}", f"--workdir={folder}", "--data_on=host"]
    subprocess.run([sys.executable, "-m", "experiments.fedavg", *flags], cwd=ROOT, check=True)
    lines = (folder / "metrics.csv").read_text().splitlines()
    rows[name] = list(csv.DictReader(lines))
  one, other = rows.values()
  assert [row["loss"] for row in one] == [row["loss"] for row in other]
