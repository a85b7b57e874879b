"""The flags of every binary, and the values with which the tests call them."""

import dataclasses
import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_norm.cli import app, methods, split_options, train
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
from fedjax_norm.cli.commands.leakage import LeakageFlags
from fedjax_norm.cli.flags import parse, shown
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.cli.wire.launch import main_of
from fedjax_norm.cli.wire.options import CertificatesFlags, ClientFlags, ServerFlags
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.study.planning.config import FLAGS, StudyOptions

# Values that no number flag accepts: other texts than plain digits, or too large numbers.
UNREADABLE = ("", " 5", "1_0", "\u00b2", "\u0663", "five", "nan", "inf", "0x1f", "9" * 5000)
NO_COUNTS = (*UNREADABLE, "4294967296", "1000000000000", "9223372036854775808", "1e30")
NO_NUMBERS = (*UNREADABLE, "-inf", "1e39", "1e308")
COUNTS = ("0", "-1", "65537", "2147483647")
NUMBERS = ("0", "-1", "1e-30", "65537", "3e38")
TEXTS = ("", "\u00b2", "nan", "-1", "1e30", "five,5", "1,2", "a:\u00b2")


class Binary(NamedTuple):
  """A binary of ``experiments``.

  Attributes:
    main: (parsed flags, config class) -> exit code.
    config: config class of the binary.
    base: flags of every call; alone they are accepted.
    needs_wire: whether the binary needs the packages of the extra ``wire``.
  """

  main: Callable[[Any, type], int]
  config: type
  base: tuple[str, ...]
  needs_wire: bool = False


def _training(main: Callable[[Any], None]) -> Callable[[Any, type], int]:
  return lambda values, config: app.execute(main, config, values)


def _plain(main: Callable[[Any], None]) -> Callable[[Any, type], int]:
  return lambda values, config: app.guard(lambda: main(parse(config, values)))


DATA = "--data=synthetic:classes=4,train=64,test=32,size=6"
_TRAINS = ("--clients=4", "--batch_size=8", "--noprogress", "--host_devices=2")
_FOUR = ("--rounds=4", "--eval_every=2")  # for binaries without --epochs
_ONE = "--host_devices=1"


def _of(
  name: str, choice: Choice, main: Callable[[Any], None], *base: str, **more: str
) -> dict[str, Binary]:
  """Returns an entry for each value of the flag that chooses the config class.

  Args:
    name: name of the binary.
    choice: flag that chooses the config class.
    main: work of the binary.
    *base: flags of every call.
    **more: value of the flag -> further flags.
  """
  return {
    f"{name}:{value}": Binary(
      _training(main), choice.config(value), (*base, *more.get(value, "").split())
    )
    for value in choice.configs
  }


def _plan_study(config: StudyOptions) -> None:
  """Plans a study; the options that its runs share are those of the other binaries."""
  shared = {"data": DATA.removeprefix("--data="), "clients": 4, "batch_size": 8}
  study.main(FLAGS(**{**dataclasses.asdict(config), **shared, "dry_run": True}))


_split = functools.partial(train.run, make=split_options.make)

BINARIES = {
  "fedavg": Binary(_training(train.run), methods.FEDAVG_CONFIG, (DATA, *_TRAINS, *_FOUR)),
  "ssgd": Binary(_training(train.run), methods.SSGD_CONFIG, (DATA, *_TRAINS)),
  "asgd": Binary(_training(train.run), methods.ASGD_CONFIG, (DATA, *_TRAINS, _ONE)),
  **_of("decentralized", methods.DECENTRALIZED, train.run, DATA, *_TRAINS),
  **_of("split", split_options.ALGORITHM, _split, DATA, *_TRAINS, *_FOUR, _ONE),
  **_of(
    "oracle", oracle.ALGORITHM, oracle.main, DATA, *_TRAINS, "--scout_every=2",
    "--oracle_fractions=0.5", gaia="--scout_grid=0.1,0.2", fedavg="--scout_grid=1,2",
    dgc="--scout_grid=0.1,0.2",
  ),
  **_of(
    "run", methods.ANY_METHOD, train.run, DATA, *_TRAINS, asgd=_ONE, split=_ONE, splitfed_v2=_ONE
  ),
  "distil": Binary(
    _training(distil.main),
    distil.DistilFlags,
    ("--data=synthetic:classes=4,train=32,test=32,size=6", "--teacher=split_run", "--noprogress"),
  ),
  "leakage": Binary(_training(leakage.main), LeakageFlags, (DATA, "--clients=4", "--noprogress")),
  "split_predict": Binary(
    _training(split_predict.main), split_predict.PredictFlags, ("--workdir=split_run",)
  ),
  "predict": Binary(_training(predict.main), predict.PredictFlags, ("--workdir=split_run",)),
  "paper": Binary(_plain(paper.main), PaperFlags, ("--table=000.1",)),
  "stages": Binary(_plain(stages.run), stages.StagesFlags, ("--image_size=8",)),
  "regions": Binary(
    _plain(regions.run),
    regions.CONFIG,
    (DATA, "--clients=4", "--partition=classes"),
  ),
  "convert": Binary(_plain(convert.run), convert.ConvertFlags, (DATA, "--to=converted")),
  "fetch": Binary(
    _plain(fetch.run), fetch.FetchFlags, ("--dataset=mnist", "--archive=mnist", "--data_dir=tfds")
  ),
  "communication": Binary(
    _plain(communication.run),
    communication.CommunicationFlags,
    ("--models=tiny", "--image_size=8"),
  ),
  "compare": Binary(
    _plain(lambda c: compare.compare(c, "run_a", "run_b")),
    compare.CompareFlags,
    (),
  ),
  "diagnostics": Binary(
    _plain(lambda c: diagnostics.main(c, "run_a", "run_b")), diagnostics.DiagnosticsFlags, ()
  ),
  "study": Binary(
    _plain(_plan_study),
    StudyOptions,
    ("--norms=gn", "--algorithms=fedavg", "--local_steps=1", "--steps=40", "--workers=1"),
  ),
  "certificates": Binary(
    _plain(main_of("certificates")), CertificatesFlags, ("--clients=alice0",), needs_wire=True
  ),
  "split_server": Binary(
    _training(main_of("server")),
    ServerFlags,
    ("--authority=certs/authority.pem", "--certificate=certs/localhost.pem",
     "--key=certs/localhost.key", "--client_names=alice0", "--image_shape=6x6x1", "--classes=4",
     "--norm=gn", "--rounds=4", "--eval_every=2", "--batch_size=8", "--cut=conv1"),
    needs_wire=True,
  ),
  "split_client": Binary(
    _training(main_of("client")),
    ClientFlags,
    ("--authority=certs/authority.pem", "--certificate=certs/alice0.pem",
     "--key=certs/alice0.key", DATA, "--cut=conv1"),
    needs_wire=True,
  ),
}  # fmt: skip
"""Name of the binary, with the value of the flag that chooses the config class -> binary."""

# Flags without which a flag would be refused before its value is checked, unless its option's
# ``needs`` says which value of which flag that is.
NEEDED_FLAGS = {
  "alpha": "--partition=dirichlet",
  "classes_per_client": "--partition=classes",
  "ratio": "--partition=ratio",
  "fraction": "--partition=skew",
  "dominant_share": "--partition=dominant",
  "exponent": "--partition=quantity",
  "min_size": "--partition=dirichlet --alpha=1",
  "cap_sizes": "--partition=dirichlet",
  "correlation": "--partition=dirichlet",
  "neighbours": "--partition=dirichlet --correlation=0.5",
  "drift_stretches": "--drift=label",
  "drift_rounds": "--drift=label",
  "drift_keeps": "--drift=label",
  "lr_warmup_from": "--lr_warmup_rounds=2",
  "lr_factor": "--lr_schedule=exponential",
  "lr_warmup_epochs": "--epochs=3",
  "freeze_tolerance": "--norm=fixbn --freeze_round=auto",
  "fine_tune_lr": "--fine_tune_steps=2",
  "diagnostics_layer": "--diagnostics",
  "diagnostics_batches": "--diagnostics",
  "chunk": "--backend=vmap --host_devices=1",
  "coordinator_address": "--num_processes=2 --process_id=0 --workdir=run",
  "num_processes": "--coordinator_address=a:1 --process_id=0 --workdir=run",
  "process_id": "--coordinator_address=a:1 --num_processes=2 --workdir=run",
  "prox": "--local_steps=2",
  "delay_lambda": "--delay_compensation=constant",
  "labelled": "--autoencoder=1",
  "client_id": "--clients=1",
}


class Values(NamedTuple):
  """Arguments with which a flag is tried.

  Attributes:
    refused: values that no flag of this type accepts.
    tried: values that the flag accepts or refuses.
  """

  refused: tuple[str, ...]
  tried: tuple[str, ...]


def values_of(binary: Binary, name: str) -> Values:
  """Returns the arguments with which a flag is tried, by the type of its option."""
  (one,) = (one for one in shown(binary.config) if one.name == name)
  if one.choices:
    return Values((f"--{name}=\u00b2",), tuple(f"--{name}={choice}" for choice in one.choices))
  if bool in one.types:
    return Values((f"--{name}=\u00b2",), (f"--{name}", f"--no{name}"))
  refused, tried = (), TEXTS
  if one.types in ((int,), (float,)):
    refused, tried = (NO_COUNTS, COUNTS) if int in one.types else (NO_NUMBERS, NUMBERS)
  return Values(*(tuple(f"--{name}={value}" for value in each) for each in (refused, tried)))


def needed_flags(binary: Binary, name: str) -> list[str]:
  """Returns the flags of the binary that a flag needs (see ``NEEDED_FLAGS``)."""
  needs = {one.name: one.needs or "" for one in shown(binary.config)}
  needed = f"--{needs[name].partition(',')[0]}" if "=" in needs[name] else ""
  flags = NEEDED_FLAGS.get(name, needed).split()
  return [flag for flag in flags if flag[2:].partition("=")[0] in needs]


# Flags of fedavg that are tried in pairs; some need or exclude each other.
TOGETHER = (
  "--local_steps=2", "--local_epochs=2", "--prox=1", "--cohort=2", "--groups=2", "--norm=fixbn",
  "--norm=sync_bn", "--backend=scan", "--chunk=2", "--fedbn", "--batch_stats=recalibrate",
  "--client_momentum=global", "--momentum=0", "--nesterov", "--accumulate=3", "--whiten=zca",
  "--subtract=image", "--drift=label", "--relabelled=0.5", "--fine_tune_steps=2",
)  # fmt: skip


def pairs(binary: Binary, count: int) -> list[tuple[str, ...]]:
  """Draws pairs of flags with values; every call returns the same pairs."""
  generator = random.Random(0)
  names = [field.name for field in shown(binary.config)]
  drawn = []
  for _ in range(count):
    two = generator.sample(names, 2)
    drawn.append(tuple(generator.choice(values_of(binary, name).tried) for name in two))
  return drawn
