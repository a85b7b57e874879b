import pytest

from fedjax_norm.training.terminal.tables import (
  columns_table,
  human_bytes,
  human_seconds,
  summary_table,
)


@pytest.mark.parametrize(
  ("count", "text"),
  [
    (0, "0 B"),
    (999, "999 B"),
    (999.6, "1.00 kB"),
    (1000, "1.00 kB"),
    (9_994, "9.99 kB"),
    (9_996, "10.0 kB"),
    (99_960, "100 kB"),
    (999_499, "999 kB"),
    (999_500, "1.00 MB"),
    (12_345_678, "12.3 MB"),
    (5e9, "5.00 GB"),
    (2.5e12, "2.50 TB"),
    (3e15, "3.00 PB"),
    (4.5e18, "4,500.00 PB"),
  ],
)
def test_human_bytes(count, text):
  assert human_bytes(count) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0, "0 ms"),
    (0.0124, "12 ms"),
    (0.9996, "1.0 s"),
    (59.94, "59.9 s"),
    (59.96, "1 min 00 s"),
    (125, "2 min 05 s"),
    (3599.4, "59 min 59 s"),
    (3599.6, "1 h 00 min"),
    (4020, "1 h 07 min"),
    (86_399, "1 d 00 h"),
    (3 * 86_400 + 7_300, "3 d 02 h"),
  ],
)
def test_human_seconds(seconds, text):
  assert human_seconds(seconds) == text


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_negative_and_infinite_quantities_are_refused(bad):
  with pytest.raises(ValueError, match="finite and not negative"):
    human_bytes(bad)
  with pytest.raises(ValueError, match="finite and not negative"):
    human_seconds(bad)


def test_summary_table_aligns_values():
  table = summary_table("Run", [("rounds", "40"), ("top-1 accuracy", "97.2%"), ("notes", "a\nb")])
  assert table.splitlines() == [
    "Run",
    "---",
    "rounds          40",
    "top-1 accuracy  97.2%",
    "notes           a",
    "                b",
  ]


def test_summary_table_without_pairs():
  assert summary_table("Empty", []) == "Empty\n-----"


def test_columns_table_aligns_numbers_right_and_text_left():
  rows = [["gn", "99.4%", "3"], ["fixbn", "7.2% ± 0.3", "1,200"]]
  assert columns_table(["norm", "top-1", "seeds"], rows).splitlines() == [
    "norm        top-1  seeds",
    "-----  ----------  -----",
    "gn          99.4%      3",
    "fixbn  7.2% ± 0.3  1,200",
  ]


def test_columns_table_refuses_a_short_row():
  with pytest.raises(ValueError, match="1 cells under 2"):
    columns_table(["a", "b"], [["1"]])
