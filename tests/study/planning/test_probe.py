"""What is measured before a study: three intervals of one program."""

import time

import pytest

from fedjax_norm.options import make
from fedjax_norm.study.planning import probe
from fedjax_norm.study.planning.combinations import drafts
from fedjax_norm.study.planning.config import FLAGS
from fedjax_norm.study.sources import Sources
from fedjax_norm.training.interval_planner import Controls, next_interval


@pytest.fixture
def measured(monkeypatch):
  """(norm, seconds of the intervals) -> (phase and rounds of the intervals, cost)."""

  def measure(norm, *seconds, **options):
    intervals, clock = [], [0.0]

    def train(program, config, data, variables, folder, on_evaluation):
      if folder:
        for one in range(config.rounds):
          clock[0] += (9.0, 1.7, 1.6)[one]
          on_evaluation(one + 1, {}, variables)
        return
      round_, controls = 0, Controls.initial(program, variables)
      for one in seconds:
        interval = next_interval(program, config, controls, round_)
        intervals.append((interval.phase, interval.end - round_))
        round_ = interval.end
        clock[0] += one
        on_evaluation(round_, {}, variables)
      assert round_ == config.rounds

    world = {"data": "synthetic:classes=3,train=90,test=30,size=6", "clients": 3, "batch_size": 8}
    config = make(FLAGS, **world, norms=norm, algorithms="fedavg", local_steps="1", **options)
    (draft,) = drafts(config, Sources(), 1)
    with monkeypatch.context() as patch:
      patch.setattr(probe.loop, "train", train)
      patch.setattr(time, "perf_counter", lambda: clock[0])
      return intervals, probe.measure(draft.config, draft.task, draft.rounds)

  return measure


@pytest.mark.parametrize(
  ("norm", "options"),
  [("gn", {}), ("fixbn", {}), ("fixbn:freeze_round=auto", {}), ("bn", {"wandb_project": "mine"})],
)
def test_times_are_those_of_one_program(measured, norm, options):
  options |= {"wandb": True} if options else {}
  intervals, cost = measured(norm, 10.0, 3.0, 1.2, **options)
  phases, rounds = zip(*intervals, strict=True)
  assert len(set(phases)) == 1
  assert rounds == (10, 10, 1)
  assert cost[1:] == pytest.approx((7.0, 0.2, 1.0, 0.4))  # compilation, step, evaluation, saving


def test_a_step_that_is_lost_in_the_noise_takes_time(measured):
  _, cost = measured("gn", 1.0, 1.0, 1.1)
  assert cost.step > 0
  assert cost.compile == 0
