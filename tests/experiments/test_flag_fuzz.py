"""Every flag of every binary with odd values is accepted, or refused in one sentence."""

import contextlib
import functools
import itertools
import re
import resource
from types import MappingProxyType, SimpleNamespace

import pytest
from helpers import flag_table, wire_extra
from helpers.binaries import ROOT
from helpers.finished_runs import write_run
from helpers.flag_calls import Small, accept, call, check, parse_flags, zeros
from helpers.flag_table import BINARIES

from fedjax_norm import client_mapping, host_memory, models
from fedjax_norm.cli import app, child_process, finished_run, train
from fedjax_norm.cli.commands import (
  communication,
  compare,
  convert,
  diagnostics,
  distil,
  fetch,
  leakage,
  oracle,
  paper,
  predict,
  regions,
  split_predict,
  stages,
  study,
)
from fedjax_norm.cli.flags import parse, shown
from fedjax_norm.cli.train import prepare
from fedjax_norm.models import registry
from fedjax_norm.models.flops import Flops
from fedjax_norm.training.finished_run import save_serving
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.final_model import save_model
from fedjax_norm.training.storage.run_folder import RunFolder

if not wire_extra.MISSING:
  from fedjax_norm.cli.wire import build, client, server
  from fedjax_norm.wire.protocol import frames, private_files

_HEADROOM = 2**31  # limit of the bytes that checks and the building of a program allocate


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Returns a folder with certificates, a run with a model and two runs to compare."""
  folder = tmp_path_factory.mktemp("flags")
  with contextlib.chdir(folder):
    maker, split = BINARIES["certificates"], BINARIES["split:split"]
    if not wire_extra.MISSING:
      maker.main(parse_flags(maker, "--output=certs"), maker.config)
    config = parse(split.config, parse_flags(split))
    config, task = prepare(config, train.load(config))
    with RunFolder.open(folder / "split_run", config.saved(), True) as run:
      save_serving(run.path, config, task)
      save_model(run.path, initial_variables(task, 0))
    for name, norm in (("run_a", "bn"), ("run_b", "gn")):
      write_run(folder / name, "fedavg", [0.5], norm=norm)
  return folder


@functools.cache
def loaded(path):
  return finished_run.load_split(path)


@pytest.fixture
def _no_work(files, monkeypatch):
  """Ends a call as accepted where the work would start; allocating much memory is an error."""
  monkeypatch.chdir(files)
  start = client_mapping.use_host_devices
  cached = functools.cache(registry.norm_modules)
  tiny = registry.MODELS["tiny"]._replace(build=Small)
  for owner, name, stub in [
    (registry, "MODELS", MappingProxyType({**registry.MODELS, "tiny": tiny})),
    (registry, "norm_modules", cached),
    (models, "norm_modules", cached),
    (models, "init", zeros),
    (models.stages, "layer_macs", lambda *_: {}),
    (app, "set_compilation_cache", lambda enabled: None),
    (paper, "set_compilation_cache", lambda enabled: None),
    (client_mapping, "use_host_devices", lambda count: start(2 if 0 < count < 2**10 else count)),
    (child_process, "supervise", accept),
    (train, "run_seed", accept),
    (train, "open_folder", accept),
    (oracle, "RunFolder", SimpleNamespace(open=lambda *_, **__: contextlib.nullcontext())),
    (paper.crew, "train", lambda folder, make_plan, *_: accept(make_plan())),
    (paper, "write_plan", lambda *_: None),
    (distil, "RunFolder", SimpleNamespace(open=accept)),
    (distil, "load_split", loaded),
    (split_predict, "load_split", loaded),
    (split_predict, "send_client_weights", accept),
    (predict, "_print", accept),
    (predict, "_write", accept),
    (leakage, "initial_variables", lambda *_: {}),
    (leakage.cut_leakage, "_each", accept),
    (regions, "_write", accept),
    (stages, "step_flops", lambda *_, **__: Flops(1.0, 3.0)),
    (communication, "write", accept),
    (compare.answer, "write_to", accept),
    (convert, "_convert", accept),
    (diagnostics, "write_table", accept),
    (fetch, "prepare", accept),
    (study, "_print_plan", accept),
    *_wire_stubs(),
    (host_memory, "total_bytes", lambda: 2**28),
  ]:
    monkeypatch.setattr(owner, name, stub)
  limits = resource.getrlimit(resource.RLIMIT_AS)
  with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, limits[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, limits)


def _wire_stubs():
  if wire_extra.MISSING:
    return []
  folder = SimpleNamespace(open=accept)
  return [
    (private_files, "create", accept),
    (server, "RunFolder", folder),
    (client, "RunFolder", folder),
    (client, "Caller", _server),
  ]


@contextlib.contextmanager
def _server(*_, **__):
  binary = BINARIES["split_server"]
  settings = build.server_settings(parse(binary.config, parse_flags(binary)))
  settings |= {"image_shape": [6, 6, 1], "classes": 4}
  yield lambda *_: frames.encode_json({"run": "0" * 32, "clients": ["alice0"], "told": settings})


# Each flag of a binary once, with the first config that has it. Of ``run``, whose other flags are
# those of the other binaries, only --method.
MODULES = {name: name.partition(":")[0] for name in BINARIES}
ALL = []
_defined = set()
for name, binary in BINARIES.items():
  for one in shown(binary.config):
    # An option with the same definition in several binaries is tried in the first of them.
    if (MODULES[name] != "run" or one.name == "method") and repr(one) not in _defined:
      _defined.add(repr(one))
      ALL.append((name, one.name))


def test_every_binary_is_in_the_table():
  folder = ROOT / "experiments"
  binaries = {path.stem for path in folder.glob("*.py") if '"__main__"' in path.read_text()}
  assert binaries - {"machine"} == set(MODULES.values())  # machine has the flags of run


@pytest.mark.parametrize("name", BINARIES)
@pytest.mark.usefixtures("_no_work")
def test_the_usual_flags_are_accepted(name):
  code, err = call(BINARIES[name])
  assert not code, err


@pytest.mark.parametrize(("name", "flag"), ALL)
@pytest.mark.usefixtures("_no_work")
def test_a_flag(name, flag):
  binary = BINARIES[name]
  values, needed = flag_table.values_of(binary, flag), flag_table.needed_flags(binary, flag)
  for value in values.refused:
    check(binary, *needed, value, refused=True)
  for value in values.tried:
    check(binary, *needed, value)


@pytest.mark.parametrize("name", BINARIES)
@pytest.mark.usefixtures("_no_work")
def test_two_flags(name):
  count = 3 if MODULES[name] == "run" else 8
  for two in flag_table.pairs(BINARIES[name], count):
    check(BINARIES[name], *two)


@pytest.mark.usefixtures("_no_work")
def test_flags_that_exclude_each_other():
  for two in itertools.combinations(flag_table.TOGETHER, 2):
    check(BINARIES["fedavg"], *two)


@pytest.mark.parametrize(
  ("name", "flag", "says"),
  [
    ("fedavg", "--image_size=65537", "resizing 64 images to 65537x65537 needs 1.10 TB and this"),
    ("fedavg", "--batch_size=2147483647", "a batch of 2,147,483,647 images of 6x6x1 needs 309 GB"),
    ("fedavg", "--rounds=2147483647", "a run of 2,147,483,647 rounds needs 137 GB and this"),
    ("fedavg", "--local_steps=1073741824", "4 rounds of 1,073,741,824 local steps are more than"),
    ("fedavg", "--local_epochs=1073741824", "4 rounds of 2,147,483,648 local steps are more than"),
    ("fedavg", "--local_steps=134217728", "2 rounds between evaluations are up to 8,589,934,592"),
    ("fedavg", "--host_devices=65537", "host_devices is 65537; it must be at least 1 and at"),
    ("ssgd", "--epochs=1073741824", "a run of 2,147,483,648 rounds needs 137 GB"),
    ("decentralized:bsp", "--rounds=2147483647", "a run of 2,147,483,647 rounds needs 137 GB"),
    ("distil", "--image_size=65537", "resizing 32 images"),
    ("distil", "--batch_size=2147483647", "a batch of 2,147,483,647 images"),
    ("leakage", "--image_size=65537", "resizing 64 images"),
    ("split_server", "--rounds=2147483647", "a run of 2,147,483,647 rounds"),
    (
      "split_server",
      "--image_shape=65537x65537x9",
      "a batch of 8 images of 65537x65537x9 needs 1.24 TB",
    ),
    ("split_server", "--image_shape=8x8x\u00b2", "give height, width and channels"),
    ("stages", "--image_size=2147483647", "needs 55,340.23 PB and this machine has 268 MB"),
    ("communication", "--image_size=65537", "an image of 65537x65537x3 needs 51.5 GB"),
    ("communication", "--clients=2147483647", "a table of 2,147,483,647 workers needs 215 GB"),
    (
      "regions",
      "--data=synthetic:train=65537,size=65537",
      "drawing 66,037 images of 65537x65537 pixels needs 1.13 PB",
    ),
    ("regions", "--data=synthetic:train=\u0663", "option train is '\u0663'; give a whole number"),
  ],
)
@pytest.mark.usefixtures("_no_work")
def test_impossible_sizes(name, flag, says):
  code, err = call(BINARIES[name], flag)
  assert code == 2
  assert re.search(says, err), err


def test_a_missing_check_fails():
  """The test of a flag fails if a value ends in a traceback or another exit code."""

  def main(values, config):
    return [0] * (10**9 // max(0, parse(config, values).top - 65536)) and 0

  binary = BINARIES["regions"]._replace(main=main)
  check(binary, "--top=1000000")
  with pytest.raises(AssertionError, match="--top=0 raises ZeroDivisionError"):
    check(binary, "--top=0")
  with pytest.raises(AssertionError, match="--top=1: 1"):
    check(binary._replace(main=lambda *_: 1), "--top=1")
