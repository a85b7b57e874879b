"""Numbers in texts are plain ASCII digits within what programs compute with."""

import pytest

from fedjax_norm import host_memory, number_parsing
from fedjax_norm.errors import UserError


@pytest.mark.parametrize("text", ["0", "-1", "+7", "007", "2147483647", "-2147483647"])
def test_whole_numbers(text):
  assert number_parsing.parse_int(text) == int(text)


@pytest.mark.parametrize(
  "text",
  ["", " 5", "5\n", "1_0", "²", "٣", "five", "1e3", "0x1f", "1.0", "--1", "2147483648", "9" * 5000],
)
def test_what_is_no_whole_number(text):
  with pytest.raises(ValueError, match="whole number up to 2147483647 in plain digits"):
    number_parsing.parse_int(text)


def test_a_larger_bound():
  assert number_parsing.parse_int("4294967295", 2**32 - 1) == 2**32 - 1


@pytest.mark.parametrize("text", ["0", "-1", "+.5", "5.", "1e-3", "3e38", "1E5"])
def test_numbers(text):
  assert number_parsing.parse_float(text) == float(text)


@pytest.mark.parametrize(
  "text", ["", " 5", "1_0", "²", "٣", "nan", "inf", "-infinity", "1e39", "1e999", "0x1f", ".", "e5"]
)
def test_what_is_no_finite_number(text):
  with pytest.raises(ValueError, match="finite number"):
    number_parsing.parse_float(text)


def test_what_does_not_fit_the_memory(monkeypatch):
  monkeypatch.setattr(host_memory, "total_bytes", lambda: 24 * 10**9)
  host_memory.check(24e9, "this", "take less")
  with pytest.raises(
    UserError, match=r"^this needs 7\.20 PB and this machine has 24\.0 GB; take less\.$"
  ):
    host_memory.check(7.2e15, "this", "take less")
