"""SSGD with distributed BN on eight devices, under every mapping."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.binaries import PYTHONPATH
from helpers.mapping_steps import BACKENDS


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
  """Runs ``mapping_steps.py`` in a process with eight CPU devices, and returns its folder."""
  tests = Path(__file__).parents[1]
  folder = tmp_path_factory.mktemp("mapped")
  done = subprocess.run(
    [sys.executable, str(tests / "helpers" / "mapping_steps.py"), str(folder)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "8",
      "PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{tests}",
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_mappings_agree(mapped):
  """16 unequal clients in lock-step on one device, and on eight devices with two on each."""
  runs = {name: dict(np.load(mapped / f"{name}.npz")) for name in BACKENDS}
  assert {name: run.pop("devices") for name, run in runs.items()} == {
    "vmap": 1,
    "pmap": 8,
    "shard_map": 8,
  }
  expected = runs.pop("vmap")
  for mapping, run in runs.items():
    assert run.keys() == expected.keys()
    for path in expected:
      np.testing.assert_allclose(
        run[path], expected[path], rtol=1e-5, atol=1e-5, err_msg=f"{mapping}: {path}"
      )
