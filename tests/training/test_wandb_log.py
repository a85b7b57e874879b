"""What a run with ``--wandb`` sends to Weights & Biases, and that errors there do not end it."""

import json
import sys
import time

import pytest
from helpers import fake_wandb
from helpers.wandb_files import records

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.storage.wandb_log import WandbLog, check_installed

CONFIG = {"norm": "gn", "lr": 0.1}


def row(round):
  return {"round": round, "phase": "explore", "top1": round / 10}


@pytest.fixture
def folder(tmp_path):
  with RunFolder.open(tmp_path / "run", CONFIG) as folder:
    yield folder


@pytest.fixture
def fake(monkeypatch):
  return fake_wandb.install(monkeypatch)


def test_a_run_offline_is_continued_and_no_row_is_sent_twice(folder, monkeypatch):
  """With the real package: files in the run folder, one id, rows, options and summary."""
  pytest.importorskip("wandb", reason="needs the extra wandb")
  for name in ("WANDB_DIR", "WANDB_PROJECT"):
    monkeypatch.delenv(name, raising=False)
  for name, value in {"MODE": "offline", "SILENT": "true"}.items():
    monkeypatch.setenv(f"WANDB_{name}", value)
  folder.append(row(2))  # before --wandb was given
  with WandbLog(folder, "mine", group="sweep") as log:
    folder.append(row(4))
    log.on_evaluation(4, row(4), None)
  time.sleep(1 - time.time() % 1)  # W&B can lose rows of two starts of a run in the same second
  with WandbLog(folder, "mine", group="sweep") as log:
    log.add([row(4), row(6)])
    log.summarize({"best": 0.75})
  written = records(folder.path)
  runs = [record.run for record in written if record.HasField("run")]
  assert {(run.project, run.display_name, run.run_group) for run in runs} == {
    ("mine", "sweep/run", "sweep")
  }
  assert {run.run_id for run in runs} == {
    json.loads((folder.path / "wandb.json").read_text())["id"]
  }
  config = {item.key: item.value_json for item in runs[0].config.update}
  assert (config["norm"], config["lr"]) == ('"gn"', "0.1")
  sent = [
    {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
    for record in written
    if record.HasField("history")
  ]
  assert [{name: one[name] for name in ("round", "phase", "top1")} for one in sent] == [
    row(2), row(4), row(6),
  ]  # fmt: skip
  assert [one["_step"] for one in sent] == [2, 4, 6]
  assert ("best", "0.75") in [
    (item.key or item.nested_key[0], item.value_json)
    for record in written
    for item in record.summary.update
  ]


def test_an_error_is_a_note_and_the_next_start_sends_the_rest(folder, fake, capsys, monkeypatch):
  monkeypatch.setattr(fake_wandb.Run, "log", fake_wandb.fails_at(3))
  with WandbLog(folder, "mine") as log:
    for number in (1, 2, 3, 4):
      folder.append(row(number))
      log.on_evaluation(number, row(number), None)
    log.summarize({"best": 1})
  sent = fake.runs[fake.started[0]["id"]]
  assert sent == {1: row(1), 2: row(2)}
  assert capsys.readouterr().out == (
    "note: W&B failed (no network), and the run goes on without it.\n"
  )
  assert json.loads((folder.path / "wandb.json").read_text())["round"] == 2
  monkeypatch.undo()
  fake_wandb.install(monkeypatch, fake)
  with pytest.raises(KeyboardInterrupt), WandbLog(folder, "mine"):
    raise KeyboardInterrupt
  assert sent == {**{number: row(number) for number in (1, 2, 3, 4)}, "finished": 1}


def test_a_user_who_is_not_logged_in_gets_one_sentence(folder, fake):
  with pytest.raises(UserError, match=r"refuses to start \(no key\); run `wandb login`"):
    WandbLog(folder, "forbidden")


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_the_local_files_are_in_the_run_folder_or_in_wandb_dir(folder, fake, monkeypatch, given):
  monkeypatch.delenv("WANDB_DIR", raising=False)
  if given:
    monkeypatch.setenv("WANDB_DIR", given)
  with WandbLog(folder, "mine"), WandbLog(folder, "other"):
    pass
  first, second = fake.started
  assert first["dir"] == (given or str(folder.path))
  assert (first["name"], first["group"], first["config"]) == ("run", None, CONFIG)
  assert first["id"] != second["id"]  # another project


def test_a_missing_package_is_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match="install it with: pip install wandb"):
    check_installed()
