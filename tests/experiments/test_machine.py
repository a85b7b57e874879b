"""What ``experiments.machine`` prints."""

import functools
import re
import time
import types

import jax
import pytest

from fedjax_norm.cli import matmul_rates
from fedjax_norm.cli.commands import machine
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.client_mapping import create


@pytest.fixture
def machine_run(_run, monkeypatch):
  """(*flags) -> Result of the binary, which multiplies small matrices for a moment."""
  for name, value in (("_SECONDS", 0.001), ("_CPU_SIZE", 64), ("_ACCELERATOR_SIZE", 64)):
    monkeypatch.setattr(matmul_rates, name, value)
  return functools.partial(_run, machine.run, ANY_METHOD)


def test_the_mapping_is_that_of_the_flags_and_the_versions_are_those_in_use(machine_run):
  result = machine_run("--cohort=3", "--backend=shard_map", "--chunk=2", "--norm=gn")
  assert result.code == 0, result.err
  rows = dict(re.split(r"  +", line, maxsplit=1) for line in result.out.splitlines()[2:])
  assert rows["mapping"] == create("shard_map", num_clients=3, chunk=2).describe()
  assert (rows["clients per round"], rows["model"]) == ("3 of 4", "tiny, gn")
  assert "reason" not in rows  # the flags are the reason
  assert rows["jax"] == jax.__version__
  assert rows["devices"].startswith(f"{jax.device_count()} {jax.default_backend()}")
  for name in ("float32", "bfloat16"):
    assert float(rows[f"matmul, {name}"].removesuffix(" GFLOP/s").replace(",", "")) >= 0


@pytest.mark.parametrize(
  ("lockstep", "backend", "words"),
  [
    (True, "auto", ["the norm merges"]),
    (False, "auto", ["on a CPU", "an accel"]),
    (False, "vmap", []),
  ],
)
def test_the_reason_for_the_mapping(lockstep, backend, words):
  mapping = types.SimpleNamespace(lockstep=lockstep)
  config = types.SimpleNamespace(backend=backend, chunk=None)
  reasons = list(machine._reasons(mapping, config))
  assert len(reasons) == bool(words)
  assert all(reason.startswith(tuple(words)) for reason in reasons)


def test_a_rate_counts_two_operations_for_each_of_n_cubed_products(monkeypatch):
  monkeypatch.setattr(matmul_rates, "_SECONDS", 0.03)
  rate = matmul_rates._rate(lambda: time.sleep(0.01), 1000)  # 2e9 operations in 10 ms
  assert 20 < rate <= 200


@pytest.mark.parametrize(
  ("backend", "driver", "platforms", "note"),
  [
    ("cpu", "580.65.06", "", r"install JAX's CUDA packages: pip install -e \"\.\[cuda13\]\""),
    ("cpu", "535.104.05", "", r"\[cuda12\]"),
    ("cpu", "580.65.06", "cpu", "because JAX_PLATFORMS is 'cpu'"),
    ("gpu", "580.65.06", "", None),
    ("cpu", None, "", None),
  ],
)
def test_a_gpu_that_jax_does_not_use_is_noted(monkeypatch, backend, driver, platforms, note):
  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  texts = list(machine.notes(backend, driver))
  assert len(texts) == (note is not None)
  assert not texts or re.search(note, texts[0])


def test_the_driver_is_what_nvidia_smi_prints(monkeypatch, tmp_path):
  tool = tmp_path / "nvidia-smi"
  tool.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
  tool.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  assert machine._nvidia_driver() == "580.65.06"
