import importlib.metadata
import json
import math
import os
import struct

import jax
import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import provenance
from fedjax_norm.training.storage.run_folder import FORMAT, RunFolder, read_config

CONFIG = {"clients": 10, "norm": "gn", "lr": 0.1, "stages": (1, 2)}
FLOATS = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e16, 123456789.125, math.inf, -1e-7]


def bits(value):
  return struct.pack("<d", value)


def row(round, value=0.1):
  return {"round": round, "phase": "calibrate", "top1": value, "bytes_up": round * 10**12}


def events(folder):
  """{(tag, step): [values]} of every record, its checksums verified."""
  found = {}
  for file in sorted((folder / "tensorboard").glob("events*")):
    data = file.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      payload = data[12 : 12 + length]
      checksums = struct.unpack("<I", data[8:12]) + struct.unpack("<I", data[12 + length :][:4])
      assert checksums == tuple(map(record_writer.masked_crc32c, (data[:8], payload)))
      event = Event.FromString(payload)
      for value in event.summary.value:
        found.setdefault((value.tag, event.step), []).append(value.simple_value)
      data = data[16 + length :]
  return found


def expected_events(rows):
  return {
    (name, r["round"]): [float(np.float32(r[name]))] for r in rows for name in ("top1", "bytes_up")
  }


def test_a_new_folder_holds_the_config_and_nothing_else(tmp_path):
  with RunFolder.open(tmp_path / "a" / "b", CONFIG) as run:
    assert not run.resumed
    assert run.rows() == []
    assert run.read_summary() is None
  assert sorted(os.listdir(tmp_path / "a" / "b")) == ["config.json", "run.lock"]
  saved = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
  [made] = saved.pop("made_by")
  assert saved == {**CONFIG, "stages": [1, 2], "format": FORMAT}
  assert (made["fedjax_norm"], made["jax"]) == (provenance.version(), jax.__version__)
  assert made["command"]
  assert read_config(tmp_path / "a" / "b") == {**CONFIG, "stages": [1, 2]}
  assert RunFolder.open(tmp_path / "a" / "b", CONFIG).resumed


def test_rows_come_back_to_the_last_bit_and_with_their_types(tmp_path):
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


def test_scalars_of_numpy_are_numbers(tmp_path):
  run = RunFolder.open(tmp_path, CONFIG)
  run.append({"round": np.int64(1), "a": np.float32(0.1), "b": np.array(2), "c": float("nan")})
  run.close()
  (r,) = run.rows()
  assert (r["round"], r["a"], r["b"]) == (1, float(np.float32(0.1)), 2)
  assert math.isnan(r["c"])


def test_texts_with_commas_and_quotes_come_back(tmp_path):
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
def test_a_bad_row_is_refused_and_leaves_no_trace(tmp_path, bad, error):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append({"round": 1, "a": 1.0})
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(error):
      run.append(bad)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    run.append({"a": 3.0, "round": 2})
    assert run.rows()[-1] == {"round": 2, "a": 3.0}


def test_events_are_the_rows(tmp_path):
  written = [row(i, value) for i, value in enumerate(FLOATS[:3])]
  with RunFolder.open(tmp_path, CONFIG) as run:
    for r in written:
      run.append(r)
  assert events(tmp_path) == expected_events(written)


def test_events_are_on_the_disk_at_once_and_survive_closing(tmp_path):
  for i in range(3):
    with RunFolder.open(tmp_path, CONFIG) as run:
      run.append(row(i))
      assert events(tmp_path) == expected_events(run.rows())


def test_cut_back_and_go_on_equals_a_run_never_stopped(tmp_path):
  values = [1 / 3, 0.1, 2 / 7, 1e-300, 0.7]
  with RunFolder.open(tmp_path / "whole", CONFIG) as run:
    for i, value in enumerate(values):
      run.append(row(i, value))
  with RunFolder.open(tmp_path / "cut", CONFIG) as run:
    for i, value in enumerate(values[:4]):
      run.append(row(i, -value if i > 1 else value))
  foreign = tmp_path / "cut" / "tensorboard" / "events.out.tfevents.1.someone"
  foreign.touch()
  with RunFolder.open(tmp_path / "cut", CONFIG) as run:
    run.drop_rows_after(1)
    assert [r["round"] for r in run.rows()] == [0, 1]
    assert events(tmp_path / "cut") == expected_events(run.rows())
    for i, value in enumerate(values[2:], start=2):
      run.append(row(i, value))
  both = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "cut")]
  assert both[0] == both[1]
  assert events(tmp_path / "cut") == events(tmp_path / "whole") == expected_events(run.rows())
  assert foreign.exists()


def test_cut_back_to_nothing_allows_other_columns(tmp_path):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.drop_rows_after(3)
    run.append(row(1))
    run.drop_rows_after(0)
    assert run.rows() == []
    assert events(tmp_path) == {}
    run.append({"round": 1, "other": 2})
    assert run.rows() == [{"round": 1, "other": 2}]


def test_a_line_torn_at_any_byte_is_dropped_and_the_next_row_is_whole(tmp_path):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append(row(1))
    run.append(row(2))
  file = tmp_path / "metrics.csv"
  data = file.read_bytes()
  ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
  for length in range(len(data)):
    file.write_bytes(data[:length])
    with RunFolder.open(tmp_path, CONFIG) as run:
      whole = max(0, sum(end <= length for end in ends) - 1)
      assert run.rows() == [row(i) for i in (1, 2)[:whole]]
      if length % 10 == 0:
        run.append(row(9))
        assert run.rows() == [*(row(i) for i in (1, 2)[:whole]), row(9)]


@pytest.mark.parametrize("line", [b"2,calibrate,0.1\n", b"x,calibrate,0.1,3\n", b"\xff,a,0.1,3\n"])
def test_a_damaged_line_in_the_middle_is_named_not_dropped(tmp_path, line):
  with RunFolder.open(tmp_path, CONFIG) as run:
    run.append(row(1))
  file = tmp_path / "metrics.csv"
  file.write_bytes(file.read_bytes() + line + b"3,calibrate,0.1,3\n")
  before = file.read_bytes()
  with pytest.raises(UserError, match=r"metrics\.csv"):
    RunFolder.open(tmp_path, CONFIG)
  assert file.read_bytes() == before


@pytest.mark.parametrize(
  ("now", "sentences"),
  [
    ({**CONFIG, "clients": 20}, ["--clients was 10 in this folder and is 20 now; pass"]),
    ({**CONFIG, "lr": 1, "norm": "bn"}, ["--lr was 0.1 in", 'now; --norm was "gn" in']),
    ({**CONFIG, "seed": 0}, ["--seed was absent in this folder and is 0 now"]),
    ({"clients": 10, "norm": "gn", "lr": 0.1}, ["--stages was [1, 2] in", "is absent now"]),
    ({**CONFIG, "clients": 10.0}, ["--clients was 10 in this folder and is 10.0 now"]),
  ],
)
def test_another_config_is_refused_by_name(tmp_path, now, sentences):
  RunFolder.open(tmp_path, CONFIG)
  before = (tmp_path / "config.json").read_bytes()
  with pytest.raises(UserError) as caught:
    RunFolder.open(tmp_path, now)
  assert all(sentence in str(caught.value) for sentence in sentences)
  assert "--workdir" in str(caught.value)
  assert (tmp_path / "config.json").read_bytes() == before


def test_nan_in_a_config_equals_itself(tmp_path):
  RunFolder.open(tmp_path, {"clip": math.nan})
  assert RunFolder.open(tmp_path, {"clip": math.nan}).resumed


def test_a_run_is_never_overwritten(tmp_path):
  RunFolder.open(tmp_path, CONFIG)
  with pytest.raises(UserError, match="already holds a run"):
    RunFolder.open(tmp_path, CONFIG, resume=False)


def test_folders_that_cannot_be_used(tmp_path):
  file = tmp_path / "file"
  file.write_text("x")
  for path in (file, file / "below"):
    with pytest.raises(UserError, match="is a file"):
      RunFolder.open(path, CONFIG)
  with pytest.raises(UserError, match="no run folder"):
    RunFolder.open(tmp_path, CONFIG)
  broken = tmp_path / "broken"
  broken.mkdir()
  for content in ('{"clients": 1', "[1]", ""):
    (broken / "config.json").write_text(content)
    for resume in (True, False):
      with pytest.raises(UserError, match="damaged"):
        RunFolder.open(broken, CONFIG, resume=resume)
    assert (broken / "config.json").read_text() == content


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
  # By a stand-in, for whoever runs this may be allowed everything.
  monkeypatch.setattr(os, "access", lambda *_: False)
  with pytest.raises(UserError, match="not writable"):
    RunFolder.open(tmp_path, CONFIG)


def test_a_kill_before_the_config_was_whole_leaves_a_usable_folder(tmp_path):
  for name in ("config.json.tmp", "run.lock", "run.lock.json", "run.lock.json.tmp"):
    (tmp_path / name).write_text('{"cli')
  with RunFolder.open(tmp_path, CONFIG) as run:
    assert not run.resumed
  assert "config.json" in os.listdir(tmp_path)


def test_summary_is_replaced_whole(tmp_path, monkeypatch):
  run = RunFolder.open(tmp_path, CONFIG)
  run.write_summary({"top1": 0.5})
  with pytest.raises(TypeError):
    run.write_summary({"top1": object()})

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
      run.write_summary({"top1": 0.6})
  assert run.read_summary() == {"top1": 0.5}
  run.write_summary({"top1": 1 / 3})
  assert run.read_summary() == {"top1": 1 / 3}
  (tmp_path / "summary.json").write_text("{")
  with pytest.raises(UserError, match="damaged"):
    run.read_summary()


def test_a_resumed_run_knows_all_that_it_was_made_by(tmp_path, monkeypatch):
  """Another version or command is added and blocks nothing; the same at another time adds none."""
  for version, date in (("1.0", "Monday"), ("1.0", "Tuesday"), ("1.1", "Wednesday")):
    entry = {"fedjax_norm": version, "date": date}
    monkeypatch.setattr(provenance, "entry", lambda entry=entry: entry)
    with RunFolder.open(tmp_path, CONFIG):
      pass
  entries = json.loads((tmp_path / "config.json").read_text())["made_by"]
  assert [entry["date"] for entry in entries] == ["Monday", "Wednesday"]
  assert read_config(tmp_path) == {**CONFIG, "stages": [1, 2]}


def test_a_run_of_an_older_version_is_read_and_not_resumed(tmp_path):
  old = json.dumps({**CONFIG, "version": "0.2.0"})
  (tmp_path / "config.json").write_text(old)
  assert read_config(tmp_path)["clients"] == 10
  with pytest.raises(UserError, match=r"another version of fedjax_norm.*pass another --workdir\."):
    RunFolder.open(tmp_path, CONFIG)
  assert (tmp_path / "config.json").read_text() == old


def test_a_checkout_knows_its_version(tmp_path):
  setup = tmp_path / "setup.cfg"
  setup.write_text("[metadata]\nname = fedjax_norm\nversion = 9.8%\n")
  assert provenance.version(setup) == "9.8%"
  setup.write_text("[metadata]\nname = another\nversion = 1\n")  # of the folder it is installed in
  assert provenance.version(setup) == importlib.metadata.version("fedjax_norm")
