"""Tensors as bytes, and back: every length is checked, and nothing may be left over.

A frame, little endian:

  "FJNW", version u16, kind u8, step u64, number of tensors u16, bytes of the whole frame u64,
  and of each tensor: bytes of its name u16, name (UTF-8), dtype u8, number of axes u8, each axis
  u64, bytes u64, data.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, HAND_OVER, LABELS, OUTPUT
from fedjax_norm.typing import PyTree
from fedjax_norm.wire.protocol.fields import Check

LONGEST_REQUEST = 2**16
"""Bytes of a request that is JSON."""

SEALED, UPDATES, TEXT, STATE = "sealed", "updates", "text", "state"
"""Kinds beside those of ``split/messages.py``, of which an output is of the U-shape's body too: of
what only its receiver can read, of updates since a seed, of JSON, and of a server's folder."""

_KINDS = (ACTIVATION, GRADIENT, LABELS, HAND_OVER, OUTPUT, SEALED, UPDATES, TEXT, STATE)
_DTYPES = tuple(
  np.dtype(t)
  for t in ("float32", "int32", "uint8", "uint16", "uint32", "uint64", jnp.bfloat16, "float16")
)
_MAGIC, _VERSION = b"FJNW", 1
_HEADER = struct.Struct("<4sHBQHQ")
_MAX_AXES, _MOST_ELEMENTS = 8, 2**40


class FrameError(UserError):
  """Bytes that are no frame, or a frame that is not what was expected."""


class Frame(NamedTuple):
  """One message.

  Attributes:
    kind: of ``split/messages.py`` or above.
    step: which step it is of.
    tensors: numpy arrays by name.
  """

  kind: str
  step: int
  tensors: Mapping[str, np.ndarray]


def encode(frame: Frame) -> bytes:
  """The bytes of a frame.

  Raises:
    ValueError: a kind, a dtype or a name that frames have no place for.
  """
  body = bytearray()
  for name, tensor in frame.tensors.items():
    array = np.asarray(tensor)
    named = name.encode()
    if array.dtype not in _DTYPES or array.ndim > _MAX_AXES or len(named) > 0xFFFF:
      raise ValueError(f"{name!r} of dtype {array.dtype} and {array.ndim} axes fits no frame.")
    body += struct.pack("<H", len(named)) + named
    body += struct.pack("<BB", _DTYPES.index(array.dtype), array.ndim)
    body += struct.pack(f"<{array.ndim + 1}Q", *array.shape, array.nbytes)
    body += array.tobytes()
  total = _HEADER.size + len(body)
  kind, count = _KINDS.index(frame.kind), len(frame.tensors)
  return _HEADER.pack(_MAGIC, _VERSION, kind, frame.step, count, total) + bytes(body)


def decode(data: bytes, limit: int | None = None) -> Frame:
  """The frame that some bytes are.

  Args:
    data: a whole frame and nothing else.
    limit: the most bytes that a frame may have.

  Raises:
    FrameError: it is not, in one sentence.
  """
  if limit is not None and len(data) > limit:
    raise FrameError(f"a message of {len(data)} bytes is above the limit of {limit}.")
  reader = _Reader(data)
  magic, version, kind, step, count, total = reader.unpack(_HEADER)
  if magic != _MAGIC:
    raise FrameError(f"a message begins with {magic!r}, so that it is none of this protocol.")
  if version != _VERSION:
    raise FrameError(f"a message is of version {version} of the protocol, and this is {_VERSION}.")
  if kind >= len(_KINDS):
    raise FrameError(f"a message is of the unknown kind {kind}.")
  if len(data) < total:
    raise FrameError(f"a message is truncated: {len(data)} of {total} bytes are there.")
  tensors: dict[str, np.ndarray] = {}
  for _ in range(count):
    name, array = _tensor(reader)
    if name in tensors:
      raise FrameError(f"a message holds the tensor {name!r} twice.")
    tensors[name] = array
  if reader.left or total != len(data):
    raise FrameError(f"a message of {len(data)} bytes has {max(reader.left, 1)} too many.")
  return Frame(_KINDS[kind], step, tensors)


class _Reader:
  """A place in some bytes, which never goes beyond their end."""

  def __init__(self, data: bytes):
    self._data, self._at = memoryview(data), 0

  @property
  def left(self) -> int:
    return len(self._data) - self._at

  def take(self, count: int) -> memoryview:
    if count > self.left:
      raise FrameError(f"a message is truncated: {count - self.left} bytes are missing.")
    self._at += count
    return self._data[self._at - count : self._at]

  def unpack(self, form: struct.Struct) -> tuple:
    return form.unpack(self.take(form.size))


def _tensor(reader: _Reader) -> tuple[str, np.ndarray]:
  (length,) = reader.unpack(struct.Struct("<H"))
  try:
    name = bytes(reader.take(length)).decode()
  except UnicodeDecodeError:
    raise FrameError("a message holds a tensor whose name is no text.") from None
  dtype, axes = reader.unpack(struct.Struct("<BB"))
  if dtype >= len(_DTYPES):
    raise FrameError(f"the tensor {name!r} is of an unknown dtype, number {dtype}.")
  if axes > _MAX_AXES:
    raise FrameError(f"the tensor {name!r} has {axes} axes, more than {_MAX_AXES}.")
  *shape, size = reader.unpack(struct.Struct(f"<{axes + 1}Q"))
  # Of axes of length 0, numpy multiplies the others, which must not overflow.
  most = math.prod(max(length, 1) for length in shape)
  if size != math.prod(shape) * _DTYPES[dtype].itemsize or most > _MOST_ELEMENTS:
    raise FrameError(
      f"the tensor {name!r} says {size} bytes, which is not what {_DTYPES[dtype]}{shape} takes."
    )
  return name, np.frombuffer(reader.take(size), _DTYPES[dtype]).reshape(shape)


def expect(frame: Frame, kind: str, *names: str) -> Frame:
  """The frame, if it is of a kind and holds these tensors and no others.

  Raises:
    FrameError: it is another one.
  """
  if frame.kind != kind:
    raise FrameError(f"a message is of the kind {frame.kind!r} where {kind!r} is expected.")
  if set(frame.tensors) != set(names):
    raise FrameError(
      f"a message of the kind {kind!r} holds the tensors {sorted(frame.tensors)} where "
      f"{sorted(names)} are expected."
    )
  return frame


def named(tree: PyTree) -> dict[str, np.ndarray]:
  """The leaves of a tree by their paths, on the host."""
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths}


def tree_of(frame: Frame, kind: str, template: PyTree) -> PyTree:
  """The inverse of :func:`named`, checked against what the receiver expects.

  Args:
    frame: of tensors by their paths.
    kind: which it has to be.
    template: arrays or their shapes.

  Raises:
    FrameError: another kind, other names, or a tensor of another shape or dtype.
  """
  paths, structure = jax.tree_util.tree_flatten_with_path(template)
  wanted = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
  expect(frame, kind, *wanted)
  for name, leaf in wanted.items():
    found = frame.tensors[name]
    if found.shape != tuple(leaf.shape) or found.dtype != leaf.dtype:
      raise FrameError(
        f"the tensor {name!r} is {found.dtype}{list(found.shape)} where "
        f"{np.dtype(leaf.dtype)}{list(leaf.shape)} is expected."
      )
  return jax.tree_util.tree_unflatten(structure, [frame.tensors[name] for name in wanted])


def text(content: dict[str, Any], step: int = 0) -> bytes:
  """The bytes of a frame of JSON."""
  return encode(Frame(TEXT, step, {"json": from_bytes(json.dumps(content).encode())}))


def read_text(data: bytes, limit: int | None = None, **checks: Check) -> dict[str, Any]:
  """The content of a frame of JSON.

  Args:
    data: its bytes.
    limit: the most that they may be.
    **checks: of ``fields.py``, for every field that must be there.

  Raises:
    FrameError: it is another frame, or another object.
  """
  return parse(expect(decode(data, limit), TEXT, "json").tensors["json"].tobytes(), **checks)


def parse(data: bytes, **checks: Check) -> dict[str, Any]:
  """The JSON object that some bytes are (see :func:`read_text`).

  Its texts can be encoded, and its numbers are finite.
  """
  try:
    content = json.loads(data)
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
  except (ValueError, RecursionError):
    raise FrameError("a message that should be JSON does not read as such.") from None
  if not isinstance(content, dict) or set(content) != set(checks):
    raise FrameError(f"a message of JSON does not have the fields {sorted(checks)}.")
  for name, check in checks.items():
    if not check(content[name]):
      raise FrameError(f"the field {name!r} of a message of JSON has a value that it cannot have.")
  return content


def from_bytes(data: bytes) -> np.ndarray:
  """Bytes as a tensor, [n] uint8."""
  return np.frombuffer(data, np.uint8)
