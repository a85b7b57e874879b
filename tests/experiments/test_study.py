"""``experiments.study``: a tiny study in this process, and what happens when it goes on."""

import contextlib
import io
import json
import shutil
from types import MappingProxyType

import pytest
from absl import flags
from helpers.binaries import SMALL

from fedjax_norm.cli import app
from fedjax_norm.cli.commands import study
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.models import registry
from fedjax_norm.study.planning.config import FLAGS, StudyConfig
from fedjax_norm.study.running import workers

TINY = (
  *(flag for flag in SMALL if not flag.startswith(("--rounds", "--eval_every"))),
  *("--model=tiny", "--norms=bn,gn", "--algorithms=fedavg", "--local_steps=2", "--steps=40"),
  *("--lrs=0.1", "--seeds=2", "--workers=1"),
)


def run(*options):
  """Returns exit code, stdout and stderr of a study."""
  out, err, values = io.StringIO(), io.StringIO(), flags.FlagValues()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    define(FLAGS, values)
    try:
      values(["study", *TINY, *options])
      code = app.guard(lambda: study.main(parse(FLAGS, values)))
    except flags.Error as error:
      code = app.print_error(error, 2)
  return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("studies") / "study"


@pytest.fixture(scope="module", autouse=True)
def _one_convolution(tiny_net):
  """Makes ``--model=tiny`` the smaller model of the tests, as ``one_convolution`` does."""
  entry = registry.MODELS["tiny"]._replace(build=tiny_net)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(registry, "MODELS", MappingProxyType({**registry.MODELS, "tiny": entry}))
    yield


@pytest.fixture(scope="module")
def first(folder):
  """What the finished study printed."""
  code, out, err = run(f"--workdir={folder}")
  assert (code, err) == (0, "")
  return out


@pytest.fixture
def trained(monkeypatch):
  """The names of the contenders that are trained from now on, which takes no time."""
  names = []

  def train_cell(plan, cell, folder, progress):
    names.append(cell.name)
    workers.write_failure(plan, cell, folder, "It was not trained.")

  monkeypatch.setattr(workers, "train_cell", train_cell)
  return names


def test_a_study_prints_and_writes_its_plan_and_its_answer(folder, first):
  assert "40 local steps" in first
  assert first.rstrip().endswith(f"report: {folder / 'report.html'}")
  assert (folder / "report.html").exists()
  results = json.loads((folder / "results.json").read_text())
  assert [row["state"] for row in results["contenders"]] == ["done", "done"]
  assert "Which norm?" in first


def test_a_finished_study_trains_nothing_and_answers_the_same(folder, first, trained):
  code, out, err = run(f"--workdir={folder}")
  assert (code, err, trained) == (0, "", [])
  assert "2 of 2 contenders" in out
  assert out.partition("\n\n")[2] == first.partition("\n\n")[2]


def test_a_study_with_another_norm_trains_only_this_one(folder, first, trained, tmp_path):
  copy = shutil.copytree(folder, tmp_path / "copy")
  code, out, err = run(f"--workdir={copy}", "--norms=bn,gn,none")
  assert (code, err) == (0, "")
  assert [name.split("-")[0] for name in trained] == ["none"]
  assert "It was not trained." in out


def test_a_stop_names_the_folder(tmp_path, monkeypatch):
  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(workers, "train_cell", stop)
  code, _, err = run(f"--workdir={tmp_path}/study")
  assert code == 130
  assert err.endswith(
    f"{tmp_path}/study keeps what is done, and the same --workdir resumes from it.\n"
  )
  monkeypatch.undo()
  leases = [workers.leases.read(one) for one in (tmp_path / "study/leases").iterdir()]
  assert all(holder.ended for holder in leases)


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, out, err = run("--dry_run")
  assert (code, err) == (0, "")
  assert "gn, fedavg, 2 local steps" in out
  assert not list(tmp_path.iterdir())


def test_a_new_study_says_that_it_measures(tmp_path, capsys):
  for options, says in (({}, True), ({"steps": 40}, False)):
    assert not study._goes_on(StudyConfig(**options), tmp_path)
    assert ("measuring how long" in capsys.readouterr().out) == says
  (tmp_path / "study.json").touch()
  assert study._goes_on(StudyConfig(), tmp_path)
  assert not capsys.readouterr().out


def test_a_dry_run_of_a_study_tells_what_is_left(folder, first):
  plan = (folder / "study.json").read_bytes()
  code, out, err = run("--dry_run", f"--workdir={folder}", "--norms=bn,gn,none")
  assert (code, err) == (0, "")
  assert "none, fedavg, 2 local steps" in out
  assert "2 of 3 contenders" in out
  assert "by the times of those" in out
  assert (folder / "study.json").read_bytes() == plan


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (("--norms=bn,batch",), "batch"),
    (("--budget=soon",), "--budget is 'soon'"),
    (("--budget=5m",), "--steps sets the effort instead of --budget"),
    (("--norms=",), "--norms is ''"),
    (("--rounds=5",), "rounds"),
    (("--groups=3", "--norms=bn"), "groups"),
    (("--data=folder:nowhere",), "nowhere"),
  ],
)
def test_a_wrong_option_is_one_sentence(tmp_path, options, words):
  code, out, err = run(f"--workdir={tmp_path}/study", *options)
  assert (code, out) == (2, "")
  assert words in err
  assert err.count("\n") == 1
  assert not list(tmp_path.iterdir())


def test_options_of_single_runs_are_refused_with_those_of_a_study(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["study", "--data=digits", "--lr=0.1"])
  with pytest.raises(SystemExit, match="2"):
    study.launch()
  assert capsys.readouterr().err == "error: a study has no --lr; give --lrs.\n"


def test_other_folders_are_refused(folder, first, tmp_path):
  (tmp_path / "notes.txt").touch()
  code, _, err = run(f"--workdir={tmp_path}")
  assert code == 2
  assert "no study's folder" in err
  code, _, err = run(f"--workdir={folder}", "--batch_size=4")
  assert code == 2
  assert "--batch_size was 8" in err
  code, _, err = run(f"--workdir={folder}", "--measure=macro_f1")
  assert "--measure was unset in this folder and is 'macro_f1' now" in err
  assert f"python -m experiments.compare {folder} --measure=macro_f1." in err
