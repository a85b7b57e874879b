"""Runs with ``--diagnostics``."""

import csv
import types
from pathlib import Path

import pytest
from matplotlib.image import imread

from fedjax_norm.models import registry


def test_a_run_writes_a_table_and_a_plot(fedavg_run, tiny_net, monkeypatch):
  entry = registry.MODELS["tiny"]._replace(build=tiny_net)  # one convolution: fast to compile
  monkeypatch.setattr(registry, "MODELS", types.MappingProxyType({"tiny": entry}))
  result = fedavg_run("--diagnostics", "--diagnostics_batches=2", "--norm=none", "--workdir=run")
  assert result.code == 0, result.err
  rows = list(csv.DictReader(Path("run/diagnostics.csv").read_text().splitlines()))
  assert {row["round"] for row in rows} == {"2", "4"}
  last = {(row["quantity"], row["place"]): float(row["value"]) for row in rows[len(rows) // 2 :]}
  assert sum(place.startswith("Norm_0:") for _, place in last) == 2 * 8
  assert {place for name, place in last if name == "mean_divergence_median"} == {"Norm_0"}
  # FedAvg has no client models between rounds; each client has one class.
  assert {place for name, place in last if name == "accuracy"} == {
    f"global on {k}" for k in range(4)
  }
  assert "local_update_delta" not in {name for name, _ in last}
  assert min(imread("run/diagnostics.png").shape[:2]) > 400


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (("--diagnostics_batches=5",), "it needs --diagnostics"),
    (("--diagnostics", "--diagnostics_layer=Norm_9"), "no norm position 'Norm_9'"),
    (("--diagnostics", "--clients=1", "--classes_per_client=4"), "there is only one"),
    (
      ("--diagnostics", "--diagnostics_batches=0"),
      "--diagnostics_batches is 0; it must be at least 1",
    ),
  ],
)
def test_invalid_flags_are_refused(fedavg_run, flags, sentence):
  result = fedavg_run(*flags)
  assert result.code == 2
  assert sentence in result.err
