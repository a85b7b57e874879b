"""Options: from a field of a dataclass to what is checked and what the command line reads."""

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

  count: int = option(3, "How many.", least=1, most=2**32 - 1)
  share: float | None = option(None, "Which part.", above=0, below=1)

  def check(self):
    if self.count == 7:
      raise UserError("--count is 7; it must not be.")


@dataclasses.dataclass(frozen=True)
class Kind(Options):
  kind: str = option("a", "What.", choices=("a", "b", "c"))
  depth: int = option(2, "How deep.", needs="kind=b,c")
  bend: float = option(0.0, "How bent.", least=0)
  twist: bool = option(False, "Whether it is twisted.", needs="bend")
  start: int | str = option("half", "A number or a word.")
  marks: tuple[float, ...] = option((), "Where.")


@dataclasses.dataclass(frozen=True)
class Both(Size, Kind):
  own: str | None = option(None, "Its own.")


def test_options_are_known_by_class_under_their_headings():
  known = {one.name: one for one in options.of(Both)}
  assert {name: one.group for name, one in known.items()} == {
    **dict.fromkeys(("kind", "depth", "bend", "twist", "start", "marks"), "run"),
    **dict.fromkeys(("count", "share", "own"), "size"),
  }
  assert known["start"].types == (int, str)
  assert known["share"].types == (float,)
  other = options.with_defaults(Both, count=5, kind="b")
  assert issubclass(other, Both)
  assert [one._replace(default=None) for one in options.of(other)] == [
    one._replace(default=None) for one in options.of(Both)
  ]
  assert (other().count, other().kind, other().bend) == (5, "b", 0.0)


@pytest.mark.parametrize(
  ("wrong", "says"),
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
def test_wrong_options_are_one_sentence(wrong, says):
  with pytest.raises(UserError, match=says):
    options.make(Both, **wrong)


def test_what_is_needed_may_be_given():
  made = options.make(Both, depth=3, kind="c", bend=1, twist=True, share=np.float32(0.5))
  assert (made.depth, made.twist, made.own) == (3, True, None)
  assert Both(depth=2) == Both()  # as in a configuration that is passed on whole


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
      "own": st.text(),
    },
  )
)
def test_the_command_line_reads_what_is_written(chosen):
  def written(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

  expected = options.make(Both, **chosen)
  assert parsed(*(f"--{name}={written(value)}" for name, value in chosen.items())) == expected


@pytest.mark.parametrize(
  "argument",
  ["--count=1_0", "--count=4294967296", "--share=nan", "--bend=1e39", "--marks=1,,2", "--kind=d"],
)
def test_what_cannot_be_read_is_refused(argument):
  with pytest.raises(flags.Error, match=argument.split("=")[0]):
    parsed(argument)


def test_a_default_that_is_given_and_does_nothing_is_refused():
  with pytest.raises(UserError, match="--depth does nothing here"):
    parsed("--depth=2")
  with pytest.raises(UserError, match="--twist does nothing here"):
    parsed("--notwist")
