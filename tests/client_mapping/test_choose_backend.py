"""The mapping is chosen by the options, the devices, their memory and the clients' steps."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fedjax_norm import client_mapping
from fedjax_norm.errors import UserError

ONE = jax.devices()[:1]


@pytest.mark.host_devices
def test_auto_chooses_by_devices_chunk_and_lockstep():
  def choice(num_clients=4, **options):
    mapping = client_mapping.create("auto", num_clients=num_clients, **options)
    return mapping.backend, mapping.chunk, mapping.num_devices

  assert choice(devices=ONE) == ("scan", 1, 1)
  assert choice(devices=ONE, lockstep=True) == ("vmap", 0, 1)
  assert choice(devices=ONE, chunk=2) == ("vmap", 2, 1)
  assert choice(devices=ONE, chunk=0) == ("vmap", 0, 1)
  assert choice() == ("shard_map", 1, 2)
  assert choice(num_clients=8, chunk=3) == ("shard_map", 2, 2)  # equal chunks of each four
  assert choice(chunk=3) == ("shard_map", 0, 2)
  assert choice(lockstep=True) == ("shard_map", 0, 2)
  assert choice(num_clients=1) == ("scan", 1, 1)
  assert choice(num_clients=3, lockstep=True) == ("vmap", 0, 1)


@pytest.mark.host_devices
def test_describe():
  platform = jax.default_backend()
  assert (
    client_mapping.create("auto", num_clients=4, devices=ONE).describe()
    == f"scan on one {platform} device"
  )
  lockstep = client_mapping.create("pmap", num_clients=4, lockstep=True)
  assert lockstep.describe() == f"pmap over 2 {platform} devices, vmap in each"
  chunked = client_mapping.create("vmap", num_clients=4, chunk=2)
  assert chunked.describe() == f"vmap in chunks of 2 on one {platform} device"


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"backend": "mpi"}, "unknown backend 'mpi'"),
    ({"backend": "vmap", "chunk": -1}, "chunk is -1"),
    ({"backend": "scan", "lockstep": True}, "--backend=scan rules out"),
    ({"backend": "vmap", "chunk": 2, "lockstep": True}, "--chunk rules out"),
    ({"backend": "auto", "chunk": 1, "lockstep": True}, "--chunk rules out"),
    ({"backend": "scan", "chunk": 2}, "one client at a time"),
    ({"backend": "scan", "chunk": 0}, "one client at a time"),
  ],
)
def test_contradicting_options_are_rejected(options, message):
  with pytest.raises(UserError, match=message):
    client_mapping.create(num_clients=4, **options)


@pytest.mark.host_devices
def test_host_devices_are_fixed_once_jax_has_started():
  assert len(jax.devices("cpu")) == 2
  client_mapping.use_host_devices(2)  # the number that JAX has started with
  with pytest.raises(UserError, match="already started with 2 host devices; call use_host_devices"):
    client_mapping.use_host_devices(3)
  with pytest.raises(UserError, match="at least 1"):
    client_mapping.use_host_devices(0)
  assert len(jax.devices("cpu")) == 2


class Accelerator:
  """A device with 1,000 bytes of memory."""

  platform = "gpu"
  process_index = 0

  def memory_stats(self):
    return {"bytes_limit": 1000}


def test_an_accelerator_runs_as_many_clients_in_parallel_as_fit_its_memory():
  def chunk(num_clients, size, **options):
    def client_bytes():
      assert size, "the size is not needed"
      return size

    mapping = client_mapping.create(
      num_clients=num_clients, client_bytes=client_bytes, devices=[Accelerator()], **options
    )
    assert mapping.backend == "vmap"
    return mapping.chunk

  assert chunk(3, 100) == 0
  assert chunk(6, 100) == 3
  assert chunk(32, 11) == 16  # of 27 that fit, in two equal chunks
  assert chunk(6, 800) == 1
  assert chunk(6, None, chunk=2) == 2
  assert chunk(6, None, lockstep=True) == 0
  assert client_mapping.create(num_clients=6, devices=[Accelerator()]).chunk == 0


def test_a_device_of_several_processes_runs_as_many_clients_in_parallel_as_fit(monkeypatch):
  """It may have more clients of a cohort than its equal share."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "make_mesh", lambda shape, *_, **__: SimpleNamespace(size=shape[0]))
  devices = [Accelerator(), Accelerator()]
  mapping = client_mapping.create(num_clients=6, client_bytes=lambda: 100, devices=devices)
  assert (mapping.chunk, mapping.divide(2), mapping.divide(5)) == (3, (1, 2), (2, 3))
  assert client_mapping.create(num_clients=6, client_bytes=lambda: 50, devices=devices).chunk == 0


def test_an_accelerator_runs_fewer_clients_in_parallel_if_their_steps_differ():
  def choose(steps, num_clients=None, **options):
    options = {"num_clients": num_clients or len(steps), "devices": [Accelerator()], **options}
    return client_mapping.create(steps=np.array(steps), **options)

  # Chunks of 13 would take 64 + 51 + 38 + 25 + 12 = 190 steps: 2080 / (13 * 190) = 84% are useful.
  mapping = choose(range(1, 65))
  assert (mapping.chunk, round(mapping.busy_share(np.arange(1, 65), 64), 2)) == (11, 0.86)
  assert mapping.describe(np.arange(1, 65), 64) == (
    f"vmap in chunks of 11 on one {jax.default_backend()} device; clients of a round are ordered "
    "by their steps; devices are 86% busy"
  )
  assert choose([1] * 32 + [9] * 32).chunk == 32
  assert choose([50] * 63 + [55]).chunk == 0
  assert choose(2 ** np.arange(16)).chunk == 8  # fewer would not fill an accelerator
  assert choose(range(1, 65), client_bytes=lambda: 60).chunk == 5  # more do not fit
  assert choose(range(1, 65), chunk=40).chunk == 32
  assert choose(range(1, 65), lockstep=True).chunk == 0
  # Some of many clients, where the steps of a round are not known in advance.
  assert choose(np.random.default_rng(0).zipf(2, 1000), 64).chunk == 8


@pytest.mark.host_devices
def test_host_devices_share_the_machines_memory():
  one, two = client_mapping.device_memory(ONE), client_mapping.device_memory(jax.devices())
  assert two == one // 2
  assert one > 2**28
  assert client_mapping.device_memory([Accelerator()]) == 1000
