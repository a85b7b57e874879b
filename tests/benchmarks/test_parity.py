"""Workload (b) in the library and in the PyTorch loop, through the functions that are timed."""

import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks import workloads
from benchmarks.export import export
from benchmarks.peers import ours, torch_models
from benchmarks.peers.torch_loop import Loop


def test_ten_local_steps_have_the_losses_and_the_weights_of_the_pytorch_loop(tmp_path):
  (full,) = workloads.table("b", "full", accelerator=False)
  small = full._replace(
    data=workloads.Data("artificial", (8, 8, 3), 16),
    clients=3,
    cohort=3,
    batch_size=8,
    samples=1,
  )
  export(small, tmp_path)
  job = small.job(str(tmp_path), threads=1)
  assert (job.model, job.groups, job.momentum) == ("resnet20", 8, 0.9)
  assert job.rounds * job.local_steps == 10

  loop = Loop(job)
  for round_ in range(job.rounds):
    loop.run_round(round_)
  theirs = np.array([float(loss) for loss in loop.losses])
  outcome, result = ours.run(job)

  # The library tells the mean of a round's five steps.
  np.testing.assert_allclose(result.losses, theirs.reshape(2, 5).mean(1), rtol=1e-5)
  trained = flatten_dict(outcome.variables["params"], sep="/")
  expected = torch_models.build(job, small.data.image_shape, trained)
  moved = 0.0
  start = torch_models.build(job, small.data.image_shape, ours.jobs.weights(job))
  for (name, want), old, have in zip(
    expected.named_parameters(), start.parameters(), loop.server, strict=True
  ):
    np.testing.assert_allclose(have, want.detach(), rtol=1e-3, atol=1e-4, err_msg=name)
    moved = max(moved, float((want - old).detach().abs().max()))
  assert moved > 1e-2
