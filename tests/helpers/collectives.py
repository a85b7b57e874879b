"""Finds the collectives of a traced program, which are the messages of one client."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Collective(NamedTuple):
  """One collective operation.

  Attributes:
    kind: name of the primitive.
    axes: named axes of the operation.
    elements: number of elements of all operands.
    bytes: number of bytes of all operands.
  """

  kind: str
  axes: tuple[str, ...]
  elements: int
  bytes: int


def equations(jaxpr: Any) -> Iterator[Any]:
  """Yields the equations of a jaxpr and of the jaxprs inside it."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for inner in _tuple(value):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from equations(inner)


def collectives(jaxpr: Any) -> Iterator[Collective]:
  """Yields every collective over named axes in a jaxpr and in the jaxprs inside it."""
  for equation in equations(jaxpr):
    names = equation.params.get("axes", equation.params.get("axis_name", ()))
    axes = tuple(axis for axis in _tuple(names) if isinstance(axis, str))
    if axes and equation.primitive.name != "axis_index":
      avals = [operand.aval for operand in equation.invars]
      yield Collective(
        equation.primitive.name,
        axes,
        sum(aval.size for aval in avals),
        sum(aval.size * aval.dtype.itemsize for aval in avals),
      )


def _tuple(value: Any) -> tuple:
  return tuple(value) if isinstance(value, tuple | list) else (value,)
