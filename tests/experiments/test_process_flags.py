"""The flags of a run of several processes."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedjax_norm.cli import child_process
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement import processes
from fedjax_norm.training.placement.processes import ProcessInfo


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"process_id": None}, "--process_id is missing"),
    ({"num_processes": None}, "--num_processes is missing"),
    ({"coordinator_address": None}, "--coordinator_address is missing"),
    ({"coordinator_address": "host"}, "--coordinator_address is 'host'; give HOST:PORT"),
    ({"coordinator_address": ":1"}, "give HOST:PORT"),
    ({"coordinator_address": "host:0"}, "give HOST:PORT"),
    ({"coordinator_address": "host:65536"}, "give HOST:PORT"),
    ({"coordinator_address": "host:-1"}, "give HOST:PORT"),
    ({"coordinator_address": "host:²"}, "give HOST:PORT"),
    ({"num_processes": 1}, "--num_processes is 1; it must be at least 2"),
    ({"process_id": 3}, "--process_id is 3; .* from 0 to 2"),
    ({"process_id": -1}, "--process_id is -1; .* from 0 to 2"),
    ({"workdir": None}, "--workdir is missing"),
    ({"several_processes": False, "process_id": None}, "one process; drop --coordinator_address"),
  ],
)
def test_invalid_flags_are_refused(changed, message):
  given = {"coordinator_address": "[::1]:65535", "num_processes": 3, "process_id": 2}
  given |= {"workdir": "run", "several_processes": True, "algorithm": "split"}
  assert child_process.process_info(SimpleNamespace(**given)) == ProcessInfo("[::1]:65535", 3, 2)
  with pytest.raises(UserError, match=message):
    child_process.process_info(SimpleNamespace(**{**given, **changed}))


def test_one_process_needs_no_flags():
  none = dict.fromkeys(("coordinator_address", "num_processes", "process_id", "workdir"))
  assert child_process.process_info(SimpleNamespace(**none)) is None


def test_processes_must_have_the_same_flags(monkeypatch):
  gathered: list[np.ndarray] = []

  def check(*all_flags: dict) -> None:
    """Calls ``check_same_flags`` as the last of processes with these flags."""
    gathered.clear()
    monkeypatch.setattr(
      processes.multihost_utils,
      "process_allgather",
      lambda a: gathered.append(a) or np.stack(gathered),
    )
    for flags in all_flags:
      processes.check_same_flags(flags)

  flags = {"lr": 0.1, "norm": "bn", "clients": None}
  check(flags, dict(reversed(flags.items())), flags)
  with pytest.raises(UserError, match="process 2 was started with another --norm than process 0"):
    check(flags, flags, {**flags, "norm": "gn"})
