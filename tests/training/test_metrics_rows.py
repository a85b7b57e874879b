"""The rows of a run: ``metrics.csv`` and the TensorBoard events derived from it."""

import math
import struct

import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder

CONFIG = {"clients": 10}
FLOATS = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e16, 123456789.125, math.inf, -1e-7]


def bits(value):
  return struct.pack("<d", value)


def row(round, value=0.1):
  return {"round": round, "phase": "calibrate", "top1": value, "bytes_up": round * 10**12}


def events(folder):
  """Returns {(tag, step): [values]} of all records, after verifying their checksums."""
  values = {}
  for file in sorted((folder / "tensorboard").glob("events*")):
    data = file.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      payload = data[12 : 12 + length]
      checksums = struct.unpack("<I", data[8:12]) + struct.unpack("<I", data[12 + length :][:4])
      assert checksums == tuple(map(record_writer.masked_crc32c, (data[:8], payload)))
      event = Event.FromString(payload)
      for value in event.summary.value:
        values.setdefault((value.tag, event.step), []).append(value.simple_value)
      data = data[16 + length :]
  return values


def expected_events(rows):
  return {
    (name, r["round"]): [float(np.float32(r[name]))] for r in rows for name in ("top1", "bytes_up")
  }


def test_rows_are_read_back_to_the_last_bit_with_their_types(tmp_path):
  written = [row(i, value) for i, value in enumerate(FLOATS)]
  with RunFolder.open(tmp_path, CONFIG) as run:
    for r in written:
      run.append(r)
  rows = RunFolder.open(tmp_path, CONFIG).rows()
  assert rows == written
  assert [bits(r["top1"]) for r in rows] == [bits(value) for value in FLOATS]
  assert {name: type(value) for name, value in rows[0].items()} == {
    'round': int, 'phase': str, 'top1': float, 'bytes_up': int
  }  # fmt: skip


def test_numpy_scalars_are_stored_as_numbers(tmp_path):
  run = RunFolder.open(tmp_path, CONFIG)
  run.append({"round": np.int64(1), "a": np.float32(0.1), "b": np.array(2), "c": float("nan")})
  run.close()
  (r,) = run.rows()
  assert (r["round"], r["a"], r["b"]) == (1, float(np.float32(0.1)), 2)
  assert math.isnan(r["c"])


def test_texts_with_commas_and_quotes_are_read_back(tmp_path):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append({"round": 1, "note": 'a, "b" and c', "empty": ""})
    assert run.rows() == [{"round": 1, "note": 'a, "b" and c', "empty": ""}]


@pytest.mark.parametrize(
  ("bad", "error"),
  [
    ({"round": 2, "a": 1.0, "b": 2.0}, ValueError),
    ({"round": 2}, ValueError),
    ({"round": 1, "a": 1.0}, ValueError),
    ({"a": 1.0}, ValueError),
    ({"round": 2.0, "a": 1.0}, ValueError),
    ({"round": 2, "a": "12"}, ValueError),
    ({"round": 2, "a": "nan"}, ValueError),
    ({"round": 2, "a": "two\nlines"}, ValueError),
    ({"round": 2, "a": None}, TypeError),
    ({"round": 2, "a": True}, TypeError),
    ({"round": 2, "a": np.zeros(3)}, TypeError),
  ],
)
def test_a_bad_row_is_refused_and_not_written(tmp_path, bad, error):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append({"round": 1, "a": 1.0})
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(error):
      run.append(bad)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    run.append({"a": 3.0, "round": 2})
    assert run.rows()[-1] == {"round": 2, "a": 3.0}


def test_events_equal_the_rows(tmp_path):
  written = [row(i, value) for i, value in enumerate(FLOATS[:3])]
  with RunFolder.open(tmp_path, CONFIG) as run:
    for r in written:
      run.append(r)
  assert events(tmp_path) == expected_events(written)


def test_events_are_on_the_disk_immediately_and_survive_closing(tmp_path):
  for i in range(3):
    with RunFolder.open(tmp_path, CONFIG) as run:
      run.append(row(i))
      assert events(tmp_path) == expected_events(run.rows())


def test_rows_dropped_and_written_again_equal_those_of_an_uninterrupted_run(tmp_path):
  values = [1 / 3, 0.1, 2 / 7, 1e-300, 0.7]
  with RunFolder.open(tmp_path / "whole", CONFIG) as run:
    for i, value in enumerate(values):
      run.append(row(i, value))
  with RunFolder.open(tmp_path / "cut", CONFIG) as run:
    for i, value in enumerate(values[:4]):
      run.append(row(i, -value if i > 1 else value))
  other_file = tmp_path / "cut" / "tensorboard" / "events.out.tfevents.1.someone"
  other_file.touch()
  with RunFolder.open(tmp_path / "cut", CONFIG) as run:
    run.drop_rows_after(1)
    assert [r["round"] for r in run.rows()] == [0, 1]
    assert events(tmp_path / "cut") == expected_events(run.rows())
    for i, value in enumerate(values[2:], start=2):
      run.append(row(i, value))
  both = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "cut")]
  assert both[0] == both[1]
  assert events(tmp_path / "cut") == events(tmp_path / "whole") == expected_events(run.rows())
  assert other_file.exists()


def test_other_columns_are_allowed_after_all_rows_are_dropped(tmp_path):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.drop_rows_after(3)
    run.append(row(1))
    run.drop_rows_after(0)
    assert run.rows() == []
    assert events(tmp_path) == {}
    run.append({"round": 1, "other": 2})
    assert run.rows() == [{"round": 1, "other": 2}]


def test_a_last_line_cut_at_any_byte_is_dropped_and_the_next_row_is_complete(tmp_path):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append(row(1))
    run.append(row(2))
  file = tmp_path / "metrics.csv"
  data = file.read_bytes()
  ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
  for length in range(len(data)):
    file.write_bytes(data[:length])
    with RunFolder.open(tmp_path, CONFIG) as run:
      complete = max(0, sum(end <= length for end in ends) - 1)
      assert run.rows() == [row(i) for i in (1, 2)[:complete]]
      if length % 10 == 0:
        run.append(row(9))
        assert run.rows() == [*(row(i) for i in (1, 2)[:complete]), row(9)]


@pytest.mark.parametrize("line", [b"2,calibrate,0.1\n", b"x,calibrate,0.1,3\n", b"\xff,a,0.1,3\n"])
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, line):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append(row(1))
  file = tmp_path / "metrics.csv"
  file.write_bytes(file.read_bytes() + line + b"3,calibrate,0.1,3\n")
  before = file.read_bytes()
  with pytest.raises(UserError, match=r"metrics\.csv"):
    RunFolder.open(tmp_path, CONFIG)
  assert file.read_bytes() == before
