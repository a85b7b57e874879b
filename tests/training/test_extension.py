"""When a run can continue with more rounds, and when it is refused with a reason."""

import dataclasses

import numpy as np
import pytest

from fedjax_norm.algorithms.contract import Method, Theta
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli.config import config_of
from fedjax_norm.errors import UserError
from fedjax_norm.training.extension import obstacle
from fedjax_norm.training.storage.run_folder import RunFolder, read_config

# A run of 20 rounds with an evaluation every 5, of which `done` are done, goes on to 40 rounds.
LENGTHS = {"rounds": 40, "eval_every": 5}
STEP = {"lr_schedule": "step"}
FIXBN = {"norm": "fixbn"}


def reason(done=20, method: Method = FEDAVG, **options) -> str | None:
  return obstacle(config_of(method)(**{**LENGTHS, **options}), 20, done)


@pytest.mark.parametrize(
  ("done", "options"),
  [
    (20, {}),
    (20, {"lr_schedule": "plateau"}),
    (20, {"lr_warmup_rounds": 7, "lr_warmup_from": 0.0}),
    (20, {**STEP, "lr_boundaries": (10,)}),
    (10, {**STEP, "lr_boundaries": (0.5,)}),  # of 20 rounds: after those that are done
    (20, {**FIXBN, "freeze_round": 10}),
    (5, {**FIXBN, "freeze_round": "half"}),
    (20, {"drift": "label", "drift_rounds": 10}),
    (20, {"drift": "label", "drift_rounds": 30}),
    (0, {"lr_schedule": "cosine", "norm": "brn"}),  # nothing is done yet
  ],
)
def test_a_run_whose_first_rounds_are_the_same_can_continue(done, options):
  assert reason(done, **options) is None


@pytest.mark.parametrize(
  ("done", "options", "words"),
  [
    (20, {"lr_schedule": "cosine"}, "--lr_schedule=cosine falls over the whole run"),
    (20, {"lr_schedule": "exponential"}, "--lr_schedule=exponential falls"),
    (15, {**STEP, "lr_boundaries": (0.5,)}, "--lr_boundaries are shares of the run"),
    (20, {**FIXBN, "freeze_round": "half"}, "--freeze_round=half depends on"),
    (10, {**FIXBN, "freeze_round": "half"}, "--freeze_round=half depends on"),
    (20, {**FIXBN, "freeze_round": "auto"}, "--freeze_round=auto depends on"),
    (20, {"norm": "brn"}, "--norm=brn changes at fractions"),
    (20, {"eval_every": 8}, "of round 20, is not a multiple of --eval_every=8"),
    (20, {"rounds": 15}, "20 rounds are already done"),
    (20, {"drift": "label"}, "--drift depends on"),
  ],
)
def test_a_run_whose_first_rounds_would_differ_cannot(done, options, words):
  assert words in reason(done, **options)


def test_a_threshold_that_follows_from_the_number_of_rounds():
  ramp = Theta(lambda config, rounds: np.linspace(1, 2, rounds))
  assert "threshold" in reason(method=dataclasses.replace(METHODS["gaia"], theta=ramp))
  assert reason(method=METHODS["gaia"]) is None
  assert reason(method=METHODS["dgc"], sparsity_warmup_rounds=4) is None


def test_the_folder_records_the_new_rounds_or_names_the_reason(tmp_path):
  old, new = {"rounds": 20, "lr": 0.1}, {"rounds": 40, "lr": 0.1}
  asked = []
  with RunFolder.open(tmp_path, old) as folder:
    folder.append({"round": 20})
  with pytest.raises(UserError, match="--rounds was 20 in this folder and is 40 now"):
    RunFolder.open(tmp_path, new)
  sentence = "a run of 20 rounds, which cannot continue with 40: it is full; pass as many rounds"
  with pytest.raises(UserError, match=sentence):
    RunFolder.open(tmp_path, new, obstacle=lambda *rounds: asked.append(rounds) or "it is full")
  assert (asked, read_config(tmp_path)) == ([(20, 20)], old)
  with pytest.raises(UserError, match=r"--lr was 0\.1 in this folder"):
    RunFolder.open(tmp_path, {**new, "lr": 0.2}, obstacle=lambda *_: None)
  RunFolder.open(tmp_path, new, obstacle=lambda *_: None).close()
  assert read_config(tmp_path) == new
