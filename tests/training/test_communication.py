"""The traffic of an epoch, against numbers by hand."""

import csv

import pytest

from fedjax_norm.cli.communication_table import epoch_table, table, write
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NAMES

# tiny: 3x3 convolutions 1 x 32, 32 x 64 and 64 x 64, a dense layer of 64 x 4 + 4.
PARAMETERS = 9 * (32 + 32 * 64 + 64 * 64) + 64 * 4 + 4
CHANNELS = (32, 64, 64)


@pytest.fixture(scope="module")
def entries():
  return epoch_table("tiny", (8, 8, 1), 4, workers=3, steps=5)


def test_an_epoch_of_tiny(entries):
  by_norm = {entry.norm: entry for entry in entries}
  affine = 2 * sum(CHANNELS)
  assert set(by_norm) == set(NAMES) - {"fixup"}  # only for ResNets
  gn, bn, bgn, sync = (by_norm[name] for name in ("gn", "bn", "bgn", "sync_bn"))
  assert gn.bytes_up == gn.bytes_down == 4 * 3 * 5 * (PARAMETERS + affine)
  assert bn.bytes_up == gn.bytes_up + 4 * 3 * 5 * affine  # running statistics
  assert bgn.bytes_up == gn.bytes_up + 4 * 3 * 5 * 2 * 3 * 8  # eight groups in three layers
  moments = sum(4 * c + 1 for c in CHANNELS)
  assert sync.bytes_up - bn.bytes_up == 4 * 3 * 5 * moments
  assert sync.paper_bytes_up - bn.bytes_up == 4 * 3 * 5 * sum(2 * c for c in CHANNELS)
  assert sync.round_trips == sync.paper_round_trips == 5 * (2 * 3 + 1)
  assert gn.round_trips == gn.paper_round_trips == 5
  assert gn.paper_bytes_up == gn.bytes_up


def test_the_table_is_written_and_printed(entries, tmp_path):
  write(entries, tmp_path / "communication.csv")
  with open(tmp_path / "communication.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert rows == [{k: str(v) for k, v in e._asdict().items()} for e in entries]
  lines = table(entries).splitlines()
  assert len(lines) == 2 + len(entries)


@pytest.mark.parametrize(("model", "size"), [("foo", 8), ("lenet", 1)])
def test_invalid_models_and_sizes_are_refused(model, size):
  with pytest.raises(UserError, match=f"{model}|images"):
    epoch_table(model, (size, size, 1), 4, workers=3, steps=5)
