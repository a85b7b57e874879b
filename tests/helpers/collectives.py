"""The collectives of a traced program: what one of its nodes sends."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Collective(NamedTuple):
  """One exchange.

  Attributes:
    kind: the primitive's name.
    axes: over which named axes.
    elements: of all operands.
    bytes: of all operands.
  """

  kind: str
  axes: tuple[str, ...]
  elements: int
  bytes: int


def collectives(jaxpr: Any) -> Iterator[Collective]:
  """Every collective over named axes, of the jaxpr and of those inside its equations."""
  for equation in jaxpr.eqns:
    named = equation.params.get("axes", equation.params.get("axis_name", ()))
    axes = tuple(axis for axis in _tuple(named) if isinstance(axis, str))
    if axes and equation.primitive.name != "axis_index":
      avals = [operand.aval for operand in equation.invars]
      yield Collective(
        equation.primitive.name,
        axes,
        sum(aval.size for aval in avals),
        sum(aval.size * aval.dtype.itemsize for aval in avals),
      )
    for value in equation.params.values():
      for inner in _tuple(value):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from collectives(inner)


def _tuple(value: Any) -> tuple:
  return tuple(value) if isinstance(value, tuple | list) else (value,)
