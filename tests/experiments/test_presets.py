"""``--preset``: the flags that each preset gives, the flags that override them, and errors."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from helpers.binaries import ROOT, SMALL

from fedjax_norm.cli import methods, presets, split_options, train
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.errors import UserError
from fedjax_norm.presets import catalog

BINARIES = {
  "fedavg": methods.FEDAVG_CONFIG,
  "ssgd": methods.SSGD_CONFIG,
  "asgd": methods.ASGD_CONFIG,
  "decentralized": methods.DECENTRALIZED,
  "split": split_options.ALGORITHM,
  "run": methods.ANY_METHOD,
}
FOLDER = Path(catalog.__file__).parent


def parsed(binary, *arguments):
  """The config of a binary that is called with these arguments."""
  options = BINARIES[binary]
  words = presets.expand(arguments, options, binary)
  kind = options.config_for(words) if isinstance(options, Choice) else options
  values = flags.FlagValues()
  define(kind, values)
  values(["binary", *words])
  return parse(kind, values)


@pytest.mark.parametrize("name", catalog.names())
def test_a_preset_is_a_complete_experiment(name):
  preset = catalog.load(name)
  assert all(preset)
  assert len(preset.description) <= 80
  assert (preset.needs == "nothing") == ("--data=digits" in preset.flags)
  assert preset.needs != "nothing" or preset.cost.endswith(" s")
  assert all(flag.startswith("--") and "=" in flag for flag in preset.flags)
  config = parsed(preset.binary, f"--preset={name}")
  train.check(config.in_rounds(config.clients, 50_000))
  assert config == parsed(preset.binary, f"--flagfile={FOLDER / name}.flags")
  assert name in (ROOT / "docs" / "presets.md").read_text()


def test_every_training_binary_has_a_preset():
  assert {catalog.load(name).binary for name in catalog.names()} == BINARIES.keys()


def test_the_default_preset_is_the_default():
  preset = parsed("fedavg", "--preset=digits_one_class")
  # These defaults depend on the data, the norm and the cohort.
  default = dataclasses.replace(
    methods.FEDAVG_CONFIG(), clients=10, partition="classes", classes_per_client=1
  )
  default = default.fill_defaults(default.make_norm(default.rounds), all_clients=True)
  assert preset.fill_defaults(preset.make_norm(preset.rounds), all_clients=True) == default
  assert preset == dataclasses.replace(default, batch_stats=None)


@pytest.mark.parametrize(
  ("binary", "arguments", "values"),
  [
    ("fedavg", "--preset=digits_dirichlet", {"alpha": 0.3, "lr": 0.02}),
    ("fedavg", "--preset=digits_dirichlet --lr=1", {"alpha": 0.3, "lr": 1}),
    ("fedavg", "--lr=1 -preset digits_dirichlet", {"alpha": 0.3, "lr": 1}),
    ("fedavg", "--preset=digits_one_class --preset=digits_dirichlet", {"alpha": 0.3}),
    ("fedavg", "--flagfile=some.flags", {"alpha": 0.3, "lr": 2}),
    (
      "decentralized",
      "--preset=decentralized_digits_gaia",
      {"algorithm": "gaia", "threshold": 0.1},
    ),
    ("decentralized", "--algorithm=bsp --preset=decentralized_cifar10_lenet", {"algorithm": "bsp"}),
    ("split", "--preset=split_fed", {"algorithm": "splitfed_v2"}),
    ("split", "--algorithm=splitfed_v1 --preset=split_fed", {"algorithm": "splitfed_v1"}),
    ("run", "--preset=run_digits_scaffold", {"method": "scaffold", "local_steps": 5}),
    ("run", "--method=fednova --preset=run_digits_scaffold", {"method": "fednova"}),
    ("run", "--preset=digits_dirichlet --method=scaffold", {"method": "scaffold"}),
    ("run", "--preset=decentralized_digits_gaia", {"method": "gaia", "threshold": 0.1}),
    ("run", "--preset=split_fed", {"method": "splitfed_v2"}),
    ("run", "--preset=ssgd_mnist", {"method": "ssgd", "clients": 1}),
  ],
)
def test_other_flags_override_a_preset(binary, arguments, values, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Path("some.flags").write_text("--lr=2\n--preset=digits_dirichlet\n")
  config = parsed(binary, *arguments.split())
  assert {name: getattr(config, name) for name in values} == values


def test_flags_of_a_preset_that_have_no_effect_are_left_out():
  config = parsed("fedavg", "--preset=digits_dirichlet", "--partition=iid")
  assert (config.partition, config.alpha, config.min_size) == ("iid", None, None)
  config = parsed("fedavg", "--partition=quantity", "--preset=digits_dirichlet")
  assert (config.alpha, config.min_size) == (0.3, 8)


@pytest.mark.parametrize(
  ("binary", "arguments", "message"),
  [
    ("fedavg", "--preset=digit_dirichlet", "'digit_dirichlet'; choose digits_dirichlet.*=list"),
    ("fedavg", "--preset=x", "there is no preset 'x'; see --preset=list for all presets"),
    ("fedavg", "--lr=1 --preset", "--preset needs a name"),
    ("fedavg", "--preset --norm=gn", "--preset needs a name"),
    ("fedavg", "--preset=split_fed", "run python -m experiments.split --preset=split_fed"),
    ("fedavg", "--preset=run_digits_scaffold", "experiments.run --preset=run_digits_scaffold"),
    ("run", "--preset=split_semi", "--labelled, which --method=split does not have; run python -m"),
    ("decentralized", "--preset=decentralized_digits_gaia --algorithm=dgc", "sets --threshold"),
    (
      "fedavg",
      "--preset=digits_dirichlet --partition=iid --alpha=1",
      "--alpha does nothing here: it needs --partition=dirichlet or quantity; drop --alpha or add",
    ),
  ],
)
def test_a_wrong_preset_is_one_sentence(binary, arguments, message):
  with pytest.raises(UserError, match=message) as error:
    parsed(binary, *arguments.split())
  assert str(error.value).count("\n") == 0


def test_a_run_records_the_flags_of_its_preset(fedavg_run):
  """A run that a preset started resumes with the same flags given one by one."""
  small = (*SMALL, "--cohort=2", "--min_size=2", "--evaluate_clients=0", "--workdir=run")
  words = presets.expand(["--preset=digits_dirichlet", *small], methods.FEDAVG_CONFIG, "fedavg")
  assert fedavg_run(*words).code == 0
  saved = json.loads(Path("run/config.json").read_text())
  assert (saved["alpha"], saved["local_epochs"], saved["clients"]) == (0.3, 1, 4)
  assert "preset" not in saved
  result = fedavg_run(*catalog.load("digits_dirichlet").flags, *small)
  assert result.code == 0, result.err
  assert "is complete; nothing is trained" in result.out


@pytest.mark.parametrize(
  ("arguments", "code", "out", "err"),
  [
    (["--preset=list"], 0, catalog.names(), ""),
    (["--preset=digits_dirichlet", "--help"], 0, ["--preset=NAME", "--preset=list"], ""),
    (["--helpfull"], 0, ["--norm:", "--verbosity:", "absl.logging:"], ""),
    (["--preset=digits"], 2, [], "error: there is no preset 'digits'; "),
  ],
)
def test_a_binary_takes_a_preset(arguments, code, out, err):
  done = subprocess.run(
    [sys.executable, "-m", "experiments.fedavg", *arguments],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == code
  assert all(text in done.stdout for text in out)
  assert "--helpfull" in arguments or max(map(len, done.stdout.splitlines()), default=0) <= 96
  assert done.stderr.startswith(err)
  assert done.stderr.count("\n") == (code > 0)
