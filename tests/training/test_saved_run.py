"""Files of finished runs are read without writing, and damaged ones are refused in a sentence."""

import json

import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.saved_run import read_run, read_seeds, seed_folders

SUMMARY = {"rounds": 4, "top1": 0.5, "loss": 1.0, "bytes_up": 8, "bytes_down": 8, "round_trips": 2,
           "seconds": 1.5}  # fmt: skip
METRICS = (
  "round,top1,loss,bytes_up,bytes_down,round_trips,seconds\n"
  "2,0.25,2.0,4,4,1,1.0\n"
  "4,0.5,1.0,8,8,2,1.5\n"
)
EVALUATION = {"round": 4, "classes": [], "clients": []}


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"norm": "gn", "seed": 3, "format": 3}))
  (tmp_path / "metrics.csv").write_text(METRICS)
  (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
  return tmp_path


def state(folder):
  return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_a_run_is_read_and_nothing_is_written(folder):
  with open(folder / "metrics.csv", "a") as file:
    file.write("6,0.7")  # a run that is being extended writes here
  before = state(folder)
  run = read_run(folder)
  assert run.config == {"norm": "gn", "seed": 3}
  assert [row["top1"] for row in run.rows] == [0.25, 0.5]
  assert (run.summary, run.evaluation) == (SUMMARY, None)
  assert state(folder) == before
  (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
  assert read_run(folder).evaluation == EVALUATION
  assert read_run(folder).best_evaluation is None
  (folder / "evaluation_best.json").write_text(json.dumps({**EVALUATION, "round": 2}))
  assert read_run(folder).best_evaluation == {**EVALUATION, "round": 2}
  assert seed_folders(folder) == [folder]


def test_a_run_of_several_seeds_is_read_seed_by_seed(folder):
  (folder / "config.json").write_text(json.dumps({"seed": 3, "seeds": 2}))
  assert seed_folders(folder) == [folder / "seed_3", folder / "seed_4"]
  with pytest.raises(UserError, match=r"pass the folder of one seed, such as .*seed_3"):
    read_run(folder)
  (folder / "config.json").write_text(json.dumps({"seed": None, "seeds": 2}))
  with pytest.raises(UserError, match="seed or seeds is no integer"):
    seed_folders(folder)


def write(path, **files):
  path.mkdir(exist_ok=True)
  for name, content in files.items():
    (path / f"{name}.json").write_text(json.dumps(content))
  (path / "metrics.csv").write_text(METRICS)


def test_a_run_that_continues_with_more_rounds_is_not_finished(folder):
  write(folder, config={"rounds": 4}, summary=SUMMARY)
  assert read_run(folder).summary == SUMMARY
  assert [path for path, _ in read_seeds(folder)] == [folder]
  write(folder, config={"rounds": 8}, summary=SUMMARY)
  with pytest.raises(UserError, match="continues to round 8, but its results are those of round 4"):
    read_run(folder)


def test_a_run_is_finished_when_all_of_its_seeds_are(tmp_path):
  seeds, config = [tmp_path / f"seed_{seed}" for seed in (0, 1)], {"seed": 0, "seeds": 2}
  longer = {"config": {"rounds": 8}, "summary": {**SUMMARY, "rounds": 8}}
  write(tmp_path, config={**config, "rounds": 4}, summary={**SUMMARY, "seeds": 2})
  write(seeds[0], config={"rounds": 4}, summary=SUMMARY)

  def check(finished: bool) -> None:
    if finished:
      assert [path for path, _ in read_seeds(tmp_path)] == seeds
    else:
      with pytest.raises(UserError, match="not all seeds of the run"):
        read_seeds(tmp_path)

  check(finished=False)  # the second seed is missing
  write(seeds[1], config={"rounds": 4}, summary=SUMMARY)
  check(finished=True)
  # The run goes on to 8 rounds: its folder first, then each seed, and last its summary.
  write(tmp_path, config={**config, "rounds": 8})
  check(finished=False)
  for folder in seeds:
    write(folder, **longer)
    with open(folder / "metrics.csv", "a") as file:
      file.write("8,0.5,1.0,8,8,2,1.5\n")
    check(finished=False)
  write(tmp_path, summary={**SUMMARY, "seeds": 2, "rounds": 8})
  check(finished=True)
  write(tmp_path, config={**config, "rounds": 8, "seeds": 3})
  check(finished=False)


@pytest.mark.parametrize(
  ("name", "content", "words"),
  [
    ("config.json", None, r"holds no run because it has no config\.json"),
    ("metrics.csv", None, r"no metrics\.csv, so it is not finished"),
    ("summary.json", None, r"no summary\.json, so it is not finished"),
    ("config.json", '{"norm": "g', "config.json is damaged"),
    ("summary.json", "[" * 100_000, r"summary\.json is damaged"),
    ("summary.json", b"\xff\x00", r"summary\.json is damaged"),
    ("summary.json", "{}", "summary.json is damaged: it has no number for rounds"),
    ("summary.json", json.dumps({**SUMMARY, "top1": "high"}), "no number for top1"),
    ("metrics.csv", b"\xff\x00\n", "cannot be read as CSV text"),
    ("metrics.csv", "", "ends before round 4"),
    ("metrics.csv", METRICS[:-20], "ends before round 4"),
    ("metrics.csv", METRICS.replace("top1", "top2"), r"metrics\.csv is damaged: .* for top1"),
    ("metrics.csv", METRICS.replace("0.5", "five"), "no number for top1"),
    ("metrics.csv", METRICS.replace("2,0.25,", "2,"), "Line 2 of .* is damaged"),
    ("evaluation.json", json.dumps({**EVALUATION, "classes": 3}), "no list of classes or clients"),
  ],
)
def test_a_damaged_run_is_refused_in_a_sentence(folder, name, content, words):
  if content is None:
    (folder / name).unlink()
  else:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=words) as caught:
    read_run(folder)
  assert str(caught.value).count("\n") == 0
