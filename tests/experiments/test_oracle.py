"""The Oracle of paper 004: the savings, and ``experiments.oracle``."""

import csv
import functools
import io
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_norm import client_mapping
from fedjax_norm.cli import app, methods, train
from fedjax_norm.cli.commands import oracle
from fedjax_norm.options import make
from fedjax_norm.study import savings


def result(top1: float | None, sent: int = 0) -> savings.Outcome:
  """Returns the outcome of a run with an accuracy in percent; None for a run that diverged."""
  return savings.Outcome(math.nan, math.nan) if top1 is None else savings.Outcome(top1, sent)


DEGREE = savings.Degree("60%", "bsp", {"0.1": "a", "0.2": "b", "0.5": "c"}, "scout")


def measured(**results: savings.Outcome) -> savings.Saving:
  return savings.measure(DEGREE, results, 1.0)


def test_the_oracle_sends_the_fewest_bytes_at_equal_accuracy():
  saving = measured(
    bsp=result(80.0, 1200),
    a=result(80.5, 300),
    b=result(79.2, 60),  # less than a point below
    c=result(78.9, 12),  # more than a point below
    scout=result(79.0, 120),
  )
  assert saving == savings.Saving("60%", 80.0, "0.2", 20.0, 10.0)
  assert saving.overhead == 2.0


def test_nothing_is_saved_if_accuracy_is_lost():
  saving = measured(
    bsp=result(80.0, 1200), a=result(70, 3), b=result(None), c=result(10, 1), scout=result(78, 9)
  )
  assert saving.oracle_theta is None
  assert math.isnan(saving.oracle)
  assert math.isnan(saving.scout)
  # If BSP diverged, there is no accuracy to compare with.
  saving = measured(
    bsp=result(None), a=result(70, 3), b=result(9, 1), c=result(9, 1), scout=result(78, 9)
  )
  assert saving.oracle_theta is None
  assert math.isnan(saving.scout)


@given(
  st.lists(
    st.tuples(st.none() | st.integers(0, 100).map(float), st.integers(1, 10**6)),
    min_size=3,
    max_size=3,
  ),
  st.integers(0, 100).map(float),
  st.integers(0, 20).map(float),
)
def test_no_theta_that_keeps_the_accuracy_saves_more(thetas, accuracy, tolerance):
  runs = dict(zip(DEGREE.thetas.values(), (result(*run) for run in thetas), strict=True))
  results = {"bsp": result(accuracy, 10**6), "scout": result(0, 1), **runs}
  saving = savings.measure(DEGREE, results, tolerance)
  least = min(
    (sent for top1, sent in thetas if top1 is not None and accuracy - top1 <= tolerance - 1e-9),
    default=None,
  )
  if least is not None:
    assert saving.oracle >= 10**6 / least * (1 - 1e-12)
  if saving.oracle_theta is not None:
    top1, sent = thetas[list(DEGREE.thetas).index(saving.oracle_theta)]
    assert top1 >= accuracy - tolerance - 1e-9
    assert saving.oracle == pytest.approx(10**6 / sent)


def test_savings_are_rendered_and_drawn():
  results = {
    "bsp": result(80.0, 1200),
    "a": result(80.5, 300),
    "b": result(10.0, 60),
    "c": result(None),
    "scout": result(70.0, 120),
  }
  table = savings.render([DEGREE], results, 1.0)
  assert "| 60% | 80.00 | 1.20 kB | 4.0x (0.1) | 70.00 | none | - |" in table
  lines = list(csv.DictReader(io.StringIO(savings.as_csv([DEGREE], results, 1.0))))
  columns = {line["run"]: (line["saved"], line["kept"], line["oracle"]) for line in lines}
  assert columns == {
    "BSP": ("1.0", "1", "0"),
    "0.1": ("4.0", "1", "1"),
    "0.2": ("20.0", "0", "0"),
    "0.5": ("", "0", "0"),
    "SkewScout": ("10.0", "0", "0"),
  }
  (axes,) = savings.draw([DEGREE], results, 1.0, "title").axes
  assert [bar.get_height() for bar in axes.patches] == [0, 4.0]
  assert {text.get_text() for text in axes.texts} == {"none", "4.0x"}


# The binary.

FLAGS = (
  "--backend=scan",
  "--host_devices=1",
  "--clients=2",
  "--partition=skew",
  "--scout_grid=0.05,0.5",
  "--scout_every=2",
  "--scout_examples=8",
  "--oracle_fractions=1",
  "--workdir=work",
)


@pytest.fixture
def run(_run, one_convolution, monkeypatch):
  """(*flags) -> Result of ``experiments.oracle``; ``run.started`` has the names of started runs."""
  monkeypatch.setattr(
    client_mapping, "use_host_devices", lambda count: None
  )  # JAX has started with two
  started = []

  def run_seed(config, task, program, path):
    started.append(path.name)
    return seed(config, task, program, path)

  seed = train.run_seed
  monkeypatch.setattr(train, "run_seed", run_seed)
  start = functools.partial(_run, oracle.main, oracle.ALGORITHM)
  start.started = started
  return start


@pytest.mark.long
def test_all_runs_are_started_reported_and_not_repeated(run):
  done = run(*FLAGS)
  assert done.code == 0, done.err
  names = ["1-bsp", "1-0.05", "1-0.5", "1-skewscout"]
  assert run.started == names
  summaries = {n: json.loads(Path("work", n, "summary.json").read_text()) for n in names}
  sent = {n: s["bytes_up"] + s["bytes_down"] for n, s in summaries.items()}
  with open("work/oracle.csv", newline="") as file:
    rows = {row["folder"]: row for row in csv.DictReader(file)}
  assert list(rows) == names
  for name, row in rows.items():
    assert float(row["bytes"]) == sent[name]
    assert float(row["top1"]) == 100 * summaries[name]["top1"]
    assert float(row["saved"]) == sent["1-bsp"] / sent[name]
  # The bytes of SkewScout's run include its model traveling.
  assert sent["1-0.5"] < sent["1-0.05"] < sent["1-skewscout"]
  assert Path("work/oracle.md").read_text().strip() in done.out
  assert Path("work/oracle.png").read_bytes()[1:4] == b"PNG"

  # A second start with another tolerance runs nothing again.
  run.started.clear()
  assert run(*FLAGS, "--oracle_tolerance=100").code == 0
  assert not run.started
  assert "(0.5)" in Path("work/oracle.md").read_text()


def test_the_runs_of_each_algorithm():
  for name, theta in (("gaia", "threshold"), ("fedavg", "local_steps"), ("dgc", "sparsity")):
    config = oracle.ALGORITHM.config(name)(scout_every=7, oracle_fractions=(0.2, 1.0, 1.0))
    kind = methods.DECENTRALIZED.config(name)
    configs, degrees = oracle.runs(config)
    assert [degree.label for degree in degrees] == ["20%", "100%"]
    for degree, fraction in zip(degrees, (0.2, 1.0), strict=True):
      bsp, scout = configs[degree.bsp], configs[degree.scout]
      assert (bsp.algorithm, bsp.skewscout, bsp.scout_every) == ("bsp", "off", 500)
      assert (scout.algorithm, scout.skewscout, scout.scout_every) == (name, "hill", 7)
      thetas = [getattr(configs[run], theta) for run in degree.thetas.values()]
      assert [f"{value:g}" for value in thetas] == list(degree.thetas)
      assert len(thetas) == (5 if name == "dgc" else 7)
      assert {type(value) for value in thetas} == {int if name == "fedavg" else float}
      runs = [bsp, scout, *(configs[run] for run in degree.thetas.values())]
      assert {run.fraction for run in runs} == {fraction}
      assert {type(run) for run in runs} == {methods.DECENTRALIZED.config("bsp"), kind}
      # A run has the flags that the same run of experiments.decentralized has.
      assert runs[3] == kind(partition="skew", fraction=fraction, **{theta: thetas[1]})


@pytest.mark.parametrize("search", ["hill", "stochastic", "annealing"])
@pytest.mark.parametrize("algorithm", ["gaia", "fedavg", "dgc"])
def test_only_the_run_of_skewscout_searches(algorithm, search):
  config = make(oracle.ALGORITHM.config(algorithm), skewscout=search, oracle_fractions=(1.0,))
  configs, (degree,) = oracle.runs(config)
  searches = {name: run.skewscout for name, run in configs.items()}
  assert searches == dict.fromkeys([degree.bsp, *degree.thetas.values()], "off") | {
    degree.scout: search
  }


@pytest.mark.parametrize(
  ("options", "mentions"),
  [
    ({"algorithm": "bsp"}, "choose one of gaia, fedavg, dgc"),
    ({"skewscout": "off"}, "skewscout=off"),
    ({"skewscout": "measure"}, "skewscout=measure"),
    ({"partition": "iid"}, "oracle_fractions"),
    ({"fraction": 0.5}, "oracle_fractions"),
    ({"seeds": 2}, "seed"),
    ({"threshold": 0.1}, "threshold"),
    ({"oracle_tolerance": -1.0}, "oracle_tolerance"),
    ({"oracle_fractions": "much"}, "oracle_fractions"),
    ({"oracle_fractions": (2.0,)}, "fraction"),
    ({"scout_grid": (0.5, 0.1)}, "rising"),
  ],
)
def test_bad_input_is_one_sentence(options, mentions, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  def start():
    kind = oracle.ALGORITHM.config(options.get("algorithm", "gaia"))
    oracle.main(make(kind, **{"data": "synthetic", "workdir": "work", **options}))

  assert app.guard(start) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert re.search(mentions, err), err
