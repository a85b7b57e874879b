"""The devices and the compilation of every test, and the small things that many tests share."""

import gc
import os
import signal

import hypothesis
import jax
import numpy as np
import pytest
from flax import linen as nn
from helpers import accelerators, optional_packages

from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.norm import Mode, Norm, NormSpec

accelerators.set_environment()
accelerators.set_host_devices()  # the imports above have not started JAX
# Tracing makes many objects; looking for cycles among them takes a tenth of the tests' time.
gc.set_threshold(50_000, 20, 20)
# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_pycollect_makemodule(module_path, parent):
  """Skips a test file that imports an optional package, such as PyTorch, if it is missing."""
  return optional_packages.Module.from_parent(parent, path=module_path)


def pytest_runtest_setup(item):
  """Skips a test with the mark ``host_devices`` on an accelerator, and on a single device."""
  if item.get_closest_marker("host_devices"):
    accelerators.require_host_devices()


@pytest.fixture(scope="session", autouse=True)
def _accelerator():
  """Prepares an accelerator, if JAX uses one."""
  accelerators.prepare()


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(tmp_path_factory):
  """Compiles a program once a session, however many tests (and processes of theirs) run it."""
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compilation_cache"
  settings = {
    "JAX_COMPILATION_CACHE_DIR": str(folder),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    # Without a size limit JAX does not lock this folder: a process can meet a half written program.
    "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry",
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, value in settings.items():
      patch.setenv(name, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    yield


@pytest.fixture
def interruptible():
  """SIGINT raises KeyboardInterrupt, which it does not in what a shell starts in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


class TinyNet(nn.Module):
  """A 3x3 convolution of 8 channels, the norm, mean pool and a dense layer."""

  norm: NormSpec
  num_classes: int = 4
  stride: int = 1
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
    x = Conv(8, (3, 3), self.norm, strides=(self.stride, self.stride))(x, mode)
    x = jax.nn.relu(Norm(self.norm)(x, mode)).mean((1, 2))
    if self.dropout:
      x = nn.Dropout(self.dropout, deterministic=not (mode.train and mode.dropout))(x)
    return Dense(self.num_classes, self.norm)(x, mode)


def make_tiny_source(
  num_train: int = 60, num_test: int = 21, size: int = 6, classes: int = 4, seed: int = 0
) -> Source:
  """Images of one channel: a bright row per class on noise, so that the classes can be learnt."""
  rng = np.random.default_rng(seed)

  def examples(count: int) -> Examples:
    labels = (np.arange(count) % classes).astype(np.int32)
    images = rng.uniform(0, 0.6, (count, size, size, 1)).astype(np.float32)
    images[np.arange(count), labels % size] += 0.4
    return Examples(images, labels)

  names = tuple(f"class {c}" for c in range(classes))
  return Source("rows", examples(num_train), examples(num_test), names)


@pytest.fixture(scope="session")
def tiny_source() -> Source:
  """60 training and 21 test images, 6x6x1, of 4 classes."""
  return make_tiny_source()


@pytest.fixture(scope="session")
def make_source():
  """Makes a source like ``tiny_source`` of other sizes: see ``make_tiny_source``."""
  return make_tiny_source


@pytest.fixture(scope="session")
def tiny_net() -> type[TinyNet]:
  """The class of the small model: ``tiny_net(norm=spec)``."""
  return TinyNet
