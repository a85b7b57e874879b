"""Options: how fields of dataclasses are described, checked and read from the command line."""

import dataclasses

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from fedjax_norm import number_parsing, options
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class Size(Options):
  group = "size"

  count: int = option(3, "A number.", least=1, most=2**32 - 1)
  share: float | None = option(None, "A share.", above=0, below=1)

  def check(self):
    if self.count == 7:
      raise UserError("--count is 7; it must not be.")


@dataclasses.dataclass(frozen=True)
class Kind(Options):
  kind: str = option("a", "A choice.", choices=("a", "b", "c"))
  depth: int = option(2, "A depth.", needs="kind=b,c")
  bend: float = option(0.0, "An angle.", least=0)
  twist: bool = option(False, "Whether it is twisted.", needs="bend")
  start: int | str = option("half", "A number or a word.")
  marks: tuple[float, ...] = option((), "Some positions.")


@dataclasses.dataclass(frozen=True)
class Both(Size, Kind):
  label: str | None = option(None, "A label.")


def test_the_options_of_a_class_are_listed_under_their_headings():
  known = {item.name: item for item in options.of(Both)}
  assert {name: item.group for name, item in known.items()} == {
    **dict.fromkeys(("kind", "depth", "bend", "twist", "start", "marks"), "run"),
    **dict.fromkeys(("count", "share", "label"), "size"),
  }
  assert known["start"].types == (int, str)
  assert known["share"].types == (float,)
  other = options.with_defaults(Both, count=5, kind="b")
  assert issubclass(other, Both)
  assert [item._replace(default=None) for item in options.of(other)] == [
    item._replace(default=None) for item in options.of(Both)
  ]
  assert (other().count, other().kind, other().bend) == (5, "b", 0.0)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"count": 0}, "--count is 0; it must be at least 1"),
    ({"count": 2**32}, "at most"),
    ({"count": True}, "--count is True; it must be a whole number"),
    ({"count": 1.0}, "a whole number"),
    ({"share": 0.0}, "--share is 0; it must be above 0 and below 1"),
    ({"share": float("nan")}, "--share is nan"),
    ({"share": "x"}, "a number"),
    ({"kind": "d"}, "choose one of a, b, c"),
    ({"depth": 3}, "--depth does nothing here: it needs --kind=b or c"),
    ({"depth": 2}, "--depth does nothing here"),  # given, although it is the default
    ({"twist": True}, "--twist does nothing here: it needs --bend"),
    ({"twist": False}, "--twist does nothing here"),
    ({"start": 1.5}, "a whole number or a text"),
    ({"count": 7}, "must not be"),
    ({"colour": 1}, "no option 'colour'.*count"),
  ],
)
def test_wrong_options_are_rejected(wrong, message):
  with pytest.raises(UserError, match=message):
    options.make(Both, **wrong)


def test_an_option_is_accepted_with_the_option_that_it_needs():
  made = options.make(Both, depth=3, kind="c", bend=1, twist=True, share=np.float32(0.5))
  assert (made.depth, made.twist, made.label) == (3, True, None)
  assert Both(depth=2) == Both()  # only options.make knows that the depth was given


def test_groups_are_joined():
  assert options.make(Both, Size(count=4), Kind(bend=1.0), count=6) == Both(count=6, bend=1.0)
  with pytest.raises(UserError, match="Both is no group of options of Size"):
    options.make(Size, Both())


def parsed(*arguments):
  values = flags.FlagValues()
  define(Both, values)
  values(["binary", *arguments])
  return parse(Both, values)


@given(
  st.fixed_dictionaries(
    {},
    optional={
      "count": st.integers(8, 2**32 - 1),
      "share": st.floats(2**-20, 1 - 2**-20),
      "kind": st.sampled_from("bc"),
      "bend": st.floats(0, 1e30),
      "start": st.integers(0, number_parsing.MAX_INT)
      | st.sampled_from(("half", "auto", "1_0", "")),
      "marks": st.lists(st.floats(-1e30, 1e30), min_size=1).map(tuple),
      "label": st.text(),
    },
  )
)
def test_the_command_line_parses_the_values_that_it_prints(chosen):
  def text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

  expected = options.make(Both, **chosen)
  assert parsed(*(f"--{name}={text(value)}" for name, value in chosen.items())) == expected


@pytest.mark.parametrize(
  "argument",
  ["--count=1_0", "--count=4294967296", "--share=nan", "--bend=1e39", "--marks=1,,2", "--kind=d"],
)
def test_malformed_values_are_rejected(argument):
  with pytest.raises(flags.Error, match=argument.split("=")[0]):
    parsed(argument)


def test_an_option_without_effect_is_rejected_even_if_it_has_its_default():
  with pytest.raises(UserError, match="--depth does nothing here"):
    parsed("--depth=2")
  with pytest.raises(UserError, match="--twist does nothing here"):
    parsed("--notwist")
