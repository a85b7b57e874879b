"""Every flag of every binary with values that cannot be: accepted, or refused in one sentence."""

import contextlib
import functools
import io
import itertools
import json
import re
import resource
import signal
from types import MappingProxyType, SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from helpers import flag_table, wire_extra
from helpers.binaries import ROOT
from helpers.flag_table import BINARIES

from fedjax_norm import client_mapping, host_memory, models
from fedjax_norm.cli import app, finished_run, supervisor, train
from fedjax_norm.cli.commands import (
  communication,
  compare,
  distil,
  leakage,
  oracle,
  paper,
  regions,
  split_predict,
  stages,
)
from fedjax_norm.cli.flags import define, parse, shown
from fedjax_norm.cli.train import prepare
from fedjax_norm.models import registry
from fedjax_norm.models.flops import Flops
from fedjax_norm.models.small import Tiny
from fedjax_norm.norm import Mode
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.final_model import save_model
from fedjax_norm.training.storage.run_folder import RunFolder

if not wire_extra.MISSING:
  from fedjax_norm.cli.wire import build, client, server
  from fedjax_norm.wire.protocol import frames, private_files

_SECONDS = 10  # for one value, of which checks take milliseconds
_HEADROOM = 2**31  # bytes that checking and building may take


class Small(Tiny):
  """A model that is traced in no time; the usual ones are tried by ``--model``."""

  def stages(self):
    first, *_, head = super().stages()
    return first, head


class Accepted(BaseException):
  """All was checked and built, and the work would begin."""


def accept(*_, **__):
  raise Accepted


@functools.cache
def defined(config):
  """The flags of a binary, which take longer to define than to parse."""
  values = flags.FlagValues()
  define(config, values)
  return values


def made(binary, *arguments):
  """The flags of a binary's call, parsed."""
  values = defined(binary.config)
  for name in values:
    values[name].unparse()
  values(["binary", *binary.base, *arguments])
  return values


def said(binary, *arguments):
  """(exit code, None if accepted; the errors) of a binary's call."""
  if binary.needs_wire:
    wire_extra.require()
  err = io.StringIO()
  with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
    try:
      code = binary.main(made(binary, *arguments), binary.config)
    except flags.Error as error:
      code = app.print_error(error, 2)
    except Accepted:
      code = None
  return code, err.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A folder with certificates, a run to take a model of and two runs to compare."""
  folder = tmp_path_factory.mktemp("flags")
  with contextlib.chdir(folder):
    maker, split = BINARIES["certificates"], BINARIES["split:split"]
    if not wire_extra.MISSING:
      maker.main(made(maker, "--output=certs"), maker.config)
    config = parse(split.config, made(split))
    config, task = prepare(config, train.load(config))
    with RunFolder.open(folder / "split_run", config.saved(), True) as run:
      save_model(run.path, initial_variables(task, 0))
    for name in ("run_a", "run_b"):
      (folder / name).mkdir()
      (folder / name / "config.json").write_text(json.dumps({"algorithm": name}))
      summary = dict.fromkeys(("top1", "loss", "bytes_up", "bytes_down", "round_trips"), 1)
      (folder / name / "summary.json").write_text(json.dumps(summary))
      (folder / name / "metrics.csv").write_text("round,top1,bytes_up,bytes_down\n1,0.5,1,1\n")
  return folder


@functools.cache
def shapes_of(model, image_shape):
  key = jax.random.key(0)
  return jax.eval_shape(lambda: model.init(key, jnp.zeros((1, *image_shape)), Mode()))


def zeros(model, key, image_shape):
  """Variables of a model, which is traced once."""
  return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes_of(model, image_shape))


@functools.cache
def loaded(path):
  return finished_run.load_split(path)


@pytest.fixture
def _no_work(files, monkeypatch):
  """Where the work of a binary would begin, its flags are accepted; too much memory is an error."""
  monkeypatch.chdir(files)
  start = client_mapping.use_host_devices
  cached = functools.cache(registry.norm_modules)
  tiny = registry.MODELS["tiny"]._replace(build=Small)
  for place, name, stub in [
    (registry, "MODELS", MappingProxyType({**registry.MODELS, "tiny": tiny})),
    (registry, "norm_modules", cached),
    (models, "norm_modules", cached),
    (models, "init", zeros),
    (models.stages, "layer_macs", lambda *_: {}),
    (app, "set_compilation_cache", lambda enabled: None),
    (client_mapping, "use_host_devices", lambda count: start(2 if 0 < count < 2**10 else count)),
    (supervisor, "supervise", accept),
    (train, "run_seed", accept),
    (train, "open_folder", accept),
    (oracle, "RunFolder", SimpleNamespace(open=lambda *_, **__: contextlib.nullcontext())),
    (paper, "RunFolder", SimpleNamespace(open=lambda *_, **__: contextlib.nullcontext())),
    (distil, "RunFolder", SimpleNamespace(open=accept)),
    (distil, "load_split", loaded),
    (split_predict, "load_split", loaded),
    (split_predict, "fetch", accept),
    (leakage, "initial_variables", lambda *_: {}),
    (leakage.leakage, "_each", accept),
    (regions, "_write", accept),
    (stages, "step_flops", lambda *_, **__: Flops(1.0, 3.0)),
    (communication, "write", accept),
    (compare.base, "save", accept),
    *_wire_stubs(),
    (host_memory, "total_bytes", lambda: 2**28),
  ]:
    monkeypatch.setattr(place, name, stub)
  kept = resource.getrlimit(resource.RLIMIT_AS)
  with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, kept[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, kept)


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
  settings = build.server_settings(parse(binary.config, made(binary)))
  settings |= {"image_shape": [6, 6, 1], "classes": 4}
  yield lambda *_: frames.encode_json({"run": "0" * 32, "clients": ["alice0"], "told": settings})


@contextlib.contextmanager
def _in_time(what):
  def late(*_):
    raise AssertionError(f"{what} takes more than {_SECONDS} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.setitimer(signal.ITIMER_REAL, _SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def check(binary, *arguments, refused=False):
  """Accepted, or refused in a sentence."""
  given = " ".join(arguments)[:200]
  with _in_time(given):
    try:
      code, err = said(binary, *arguments)
    except Exception as error:
      raise AssertionError(f"{given} raises {error!r}") from error
  where = f"{given}: {code}, {err!r}"
  if not code:
    assert not refused, where
    return
  assert code == 2, where
  assert err.startswith("error: "), where
  assert err.count("\n") == 1, where


# Each flag of a module once, with the first choice that has it; ``run`` has those of the others.
MODULES = {name: name.partition(":")[0] for name in BINARIES}
FIRST = {}
for name, binary in BINARIES.items():
  for one in shown(binary.config):
    FIRST.setdefault((MODULES[name], one.name), name)
ALL = [
  (name, flag) for (module, flag), name in FIRST.items() if module != "run" or flag == "method"
]


def test_every_binary_is_in_the_table():
  folder = ROOT / "experiments"
  binaries = {path.stem for path in folder.glob("*.py") if '"__main__"' in path.read_text()}
  assert binaries == set(MODULES.values())


@pytest.mark.parametrize("name", BINARIES)
@pytest.mark.usefixtures("_no_work")
def test_the_usual_flags_are_accepted(name):
  code, err = said(BINARIES[name])
  assert not code, err


@pytest.mark.parametrize(("name", "flag"), ALL)
@pytest.mark.usefixtures("_no_work")
def test_a_flag(name, flag):
  binary = BINARIES[name]
  values, company = flag_table.values_of(binary, flag), flag_table.company(binary, flag)
  for value in values.refused:
    check(binary, *company, value, refused=True)
  for value in values.tried:
    check(binary, *company, value)


@pytest.mark.parametrize("name", BINARIES)
@pytest.mark.usefixtures("_no_work")
def test_two_flags(name):
  count = 5 if MODULES[name] == "run" else 15
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
    ("communication", "--clients=2147483647", "a ledger of 2,147,483,647 workers needs 215 GB"),
    (
      "regions",
      "--data=synthetic:train=65537,size=65537",
      "drawing 66,037 images of 65537x65537 pixels needs 1.13 PB",
    ),
    ("regions", "--data=synthetic:train=\u0663", "option train is '\u0663'; give a whole number"),
  ],
)
@pytest.mark.usefixtures("_no_work")
def test_sizes_that_cannot_be(name, flag, says):
  code, err = said(BINARIES[name], flag)
  assert code == 2
  assert re.search(says, err), err


def test_a_check_that_is_missing_is_found():
  """The test of a flag fails where a value ends in a traceback or another exit code."""

  def main(values, config):
    return [0] * (10**9 // max(0, parse(config, values).top - 65536)) and 0

  binary = BINARIES["regions"]._replace(main=main)
  check(binary, "--top=1000000")
  with pytest.raises(AssertionError, match="--top=0 raises ZeroDivisionError"):
    check(binary, "--top=0")
  with pytest.raises(AssertionError, match="--top=1: 1"):
    check(binary._replace(main=lambda *_: 1), "--top=1")
