"""All parts of the script for accelerators run, whatever becomes of the others."""

import subprocess
import sys
import time

import pytest

from benchmarks import accuracy, gpu
from fedjax_norm.errors import UserError


def part(name: str, script: str, share: float = 0.1) -> gpu.Part:
  return gpu.Part(name, f"Part {name}", share, ("-c", script, "{folder}", "{minutes}"), ())


SLOW = """
import sys, time
open(sys.argv[1] + "/results.md", "w").write("# First\\n\\n| figure |")
try:
  time.sleep(60)
finally:
  open(sys.argv[1] + "/ended", "w")
"""


@pytest.fixture
def _quick(monkeypatch):
  monkeypatch.setattr(gpu, "jax_devices", lambda: "1 gpu some GPU")
  monkeypatch.setattr(gpu, "describe", lambda: ["a machine"])
  monkeypatch.setattr(gpu, "PARTS", (
    part("bad", "raise ValueError('no luck')"),
    part("slow", SLOW),
    part("good", "import sys; print('minutes', float(sys.argv[2]))", 0.8),
  ))  # fmt: skip


@pytest.mark.usefixtures("_quick", "interruptible")
def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_next(tmp_path):
  output = tmp_path / "out"
  begun = time.monotonic()
  gpu.main(0.2, output, smoke=False)
  assert time.monotonic() - begun < 20
  text = (output / "summary.md").read_text()
  bad, slow, good = text.split("\n## Part ")[1:]
  assert " s: ValueError: no luck" in bad
  assert "its time was over" in slow
  assert "### First\n\n| figure |" in slow
  assert (output / "slow" / "ended").exists()  # it was interrupted, not killed
  assert good.startswith("good\n\nTook ")
  assert "\nminutes 0.1\n" in good
  with pytest.raises(UserError, match="has the results of an earlier run"):
    gpu.main(0.1, output, smoke=False)


def test_a_machine_without_an_accelerator_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(gpu, "jax_devices", lambda: "2 cpu cpu")
  with pytest.raises(UserError, match=r"no accelerator here \(2 cpu cpu\)"):
    gpu.main(1, tmp_path / "out", smoke=False)


def test_the_parts_have_all_the_time_and_the_tests_exist():
  assert sum(one.share for one in gpu.PARTS) == pytest.approx(1)
  assert all((gpu.ROOT / path).exists() for path in gpu._TESTS)


def test_accuracies_are_by_platform_and_seed():
  device, cpu = accuracy._PLATFORMS
  found = {(device, 0): 90.0, (device, 1): 92.0, (cpu, 0): "failed: no luck"}
  lines = accuracy.table(found, 2).splitlines()
  assert lines[2] == f"| {device} | 90.00 | 92.00 | 91.00 |"
  assert lines[3] == "| CPU | failed: no luck | not ended |  |"


def test_runs_of_an_earlier_comparison_are_kept(tmp_path):
  (tmp_path / "1_0").mkdir()
  with pytest.raises(UserError, match="has the runs of an earlier comparison"):
    accuracy.compare(tmp_path, 1, "")
  assert [path.name for path in tmp_path.iterdir()] == ["1_0"]


@pytest.mark.long
@pytest.mark.parametrize("script", ["run", "gpu", "accuracy"])
def test_a_word_that_is_no_flag_is_refused(script):
  command = [sys.executable, "-m", f"benchmarks.{script}", "30"]
  done = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr.endswith("error: unexpected argument '30'; flags are written --name=value.\n")


@pytest.mark.long
@pytest.mark.parametrize(
  ("flag", "words"),
  [("--minutes=x", "above 0"), ("--minutes=0", "above 0"), ("--output=", "empty")],
)
def test_a_wrong_flag_is_one_sentence(flag, words):
  command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", flag]
  done = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert words in done.stderr


def test_an_interpreter_without_jax_is_not_replaced_by_another(monkeypatch):
  monkeypatch.setenv("PYTHON", "/nowhere/python")
  done = subprocess.run([f"{gpu.ROOT}/benchmarks/gpu.sh"], capture_output=True, text=True)
  assert done.returncode == 2
  assert "none of /nowhere/python is a Python with JAX" in done.stderr
  done = subprocess.run([f"{gpu.ROOT}/benchmarks/gpu.sh", "--help"], capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("Measures everything")


@pytest.mark.long
def test_the_whole_script_works(tmp_path):
  output = tmp_path / "out"
  script = f"{gpu.ROOT}/benchmarks/gpu.sh"
  flags = ["--smoke", "--minutes=20", f"--output={output}"]
  done = subprocess.run([script, *flags], capture_output=True, text=True, timeout=1200)
  text = (output / "summary.md").read_text()
  assert done.returncode == 0, done.stderr
  assert text.count("\nTook ") == len(gpu.PARTS), text
  for heading in (
    "#### (h) ",
    "#### (c) ",
    "#### (e) ",
    "| accuracy, % |",
    "tests collected",
    "# SMOKE RUN: ",
  ):
    assert heading in text
