"""The options of a run: the flag that chooses them, and the values that a run records."""

import json
from pathlib import Path

import pytest

from fedjax_norm import options
from fedjax_norm.cli import methods, train
from fedjax_norm.cli.methods import ANY_METHOD, DECENTRALIZED
from fedjax_norm.cli.split_options import ALGORITHM as SPLIT
from fedjax_norm.errors import UserError


@pytest.mark.parametrize(
  ("arguments", "value"),
  [
    ((), "bsp"),
    (("--lr=1", "--algorithm=gaia"), "gaia"),
    (("-algorithm", "dgc"), "dgc"),
    (("--algorithm=gaia", "--algorithm=dgc"), "dgc"),
    (("--flagfile=some.flags",), "gaia"),
    (("--flagfile=some.flags", "--algorithm=fedavg"), "fedavg"),
  ],
)
def test_the_flag_that_chooses_the_others(arguments, value, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Path("some.flags").write_text("# a preset\n--algorithm=gaia\n")
  kind = DECENTRALIZED.config_for(arguments)
  assert kind is DECENTRALIZED.config(value)
  assert kind().algorithm == value


def test_a_value_that_chooses_nothing_is_refused():
  with pytest.raises(UserError, match="--algorithm is 'sgd'; choose one of bsp, gaia, fedavg, dgc"):
    DECENTRALIZED.config_for(["--algorithm=sgd"])


@pytest.mark.parametrize(
  ("kind", "given", "in_force"),
  [
    (
      methods.FEDAVG_CONFIG,
      {},
      {"local_steps": 1, "client_momentum": "local", "batch_stats": "mean", "partition": "classes"},
    ),
    (methods.FEDAVG_CONFIG, {}, {"cohort": 4, "lr": 0.02}),
    (methods.FEDAVG_CONFIG, {"cohort": 2}, {"client_momentum": "reset", "classes_per_client": 1}),
    (methods.FEDAVG_CONFIG, {"fedbn": True}, {"batch_stats": "local"}),
    (methods.FEDAVG_CONFIG, {"drift": "label"}, {"drift_rounds": 300}),
    (ANY_METHOD.config("scaffold"), {"local_steps": 3}, {"local_steps": 3, "method": "scaffold"}),
    (methods.SSGD_CONFIG, {"epochs": 2}, {"rounds": 2, "eval_every": 1, "weighting": "examples"}),
    (methods.ASGD_CONFIG, {}, {"rounds": 3000, "network": "lan", "momentum": 0.0}),
    (DECENTRALIZED.config("bsp"), {}, {"reduction": "sum", "weighting": "uniform", "lr": 0.01}),
    (DECENTRALIZED.config("gaia"), {}, {"batch_stats": "local", "threshold": 0.1}),
    *((ANY_METHOD.config(name), {}, {"lr": 0.01}) for name in ("bsp", "gaia", "periodic", "dgc")),
    (DECENTRALIZED.config("dgc"), {"epochs": 4, "sparsity_warmup_epochs": 1}, {"rounds": 4}),
    (
      SPLIT.config("split"),
      {},
      {"hand_over": "centralised", "handed_over": "weights", "turn_order": "fixed"},
    ),
    (SPLIT.config("splitfed_v1"), {}, {"client_momentum": "local", "turn_order": None}),
    (SPLIT.config("splitfed_v2"), {}, {"turn_order": "fixed", "handed_over": None}),
  ],
)
def test_a_run_is_saved_with_the_values_in_force(tiny_source, kind, given, in_force):
  config, _ = train.prepare(kind(clients=4, norm="bn", **given), tiny_source)
  saved = config.saved()
  assert in_force.items() <= saved.items()
  # A resumed run compares its config with the one read from the folder.
  assert options.from_json(json.loads(json.dumps(saved))) == saved
  assert train.prepare(config, tiny_source)[0] == config
  assert saved.keys() <= {one.name for one in options.of(kind)} | {"algorithm"}
