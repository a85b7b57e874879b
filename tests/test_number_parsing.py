"""Numbers are parsed from plain ASCII digits, within the range that programs compute with."""

import pytest

from fedjax_norm import host_memory, number_parsing
from fedjax_norm.errors import UserError


@pytest.mark.parametrize("text", ["0", "-1", "+7", "007", "2147483647", "-2147483647"])
def test_integers(text):
  assert number_parsing.parse_int(text) == int(text)


@pytest.mark.parametrize(
  "text",
  ["", " 5", "5\n", "1_0", "²", "٣", "five", "1e3", "0x1f", "1.0", "--1", "2147483648", "9" * 5000],
)
def test_malformed_integers_are_rejected(text):
  with pytest.raises(ValueError, match="whole number up to 2147483647 in plain digits"):
    number_parsing.parse_int(text)


def test_integers_with_a_larger_limit():
  assert number_parsing.parse_int("4294967295", 2**32 - 1) == 2**32 - 1


@pytest.mark.parametrize("text", ["0", "-1", "+.5", "5.", "1e-3", "3e38", "1E5"])
def test_floats(text):
  assert number_parsing.parse_float(text) == float(text)


@pytest.mark.parametrize(
  "text", ["", " 5", "1_0", "²", "٣", "nan", "inf", "-infinity", "1e39", "1e999", "0x1f", ".", "e5"]
)
def test_malformed_and_infinite_floats_are_rejected(text):
  with pytest.raises(ValueError, match="finite number"):
    number_parsing.parse_float(text)


def test_sizes_above_the_machines_memory_are_rejected(monkeypatch):
  monkeypatch.setattr(host_memory, "total_bytes", lambda: 24 * 10**9)
  host_memory.check(24e9, "this", "take less")
  with pytest.raises(
    UserError, match=r"^this needs 7\.20 PB and this machine has 24\.0 GB; take less\.$"
  ):
    host_memory.check(7.2e15, "this", "take less")
