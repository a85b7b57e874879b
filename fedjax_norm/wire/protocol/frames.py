"""Encodes tensors as bytes (a frame) and decodes them, with every length checked.

The format of a frame, little endian:

  "FJNW", version u16, kind u8, step u64, number of tensors u16, bytes of the whole frame u64,
  and for each tensor: bytes of its name u16, name (UTF-8), dtype u8, number of axes u8, each axis
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

MAX_REQUEST_BYTES = 2**16
"""Largest number of bytes in a JSON request."""

SEALED, UPDATES, TEXT, STATE = "sealed", "updates", "text", "state"
"""Kinds of frames in addition to those of ``split/messages.py``: an encrypted hand-over, weight
updates relative to initial weights, JSON, and the server's state file. OUTPUT is also the kind of
the server's output in a training step of the U-shape."""

_KINDS = (ACTIVATION, GRADIENT, LABELS, HAND_OVER, OUTPUT, SEALED, UPDATES, TEXT, STATE)
_DTYPES = tuple(
  np.dtype(t)
  for t in ("float32", "int32", "uint8", "uint16", "uint32", "uint64", jnp.bfloat16, "float16")
)
_MAGIC, _VERSION = b"FJNW", 1
_HEADER = struct.Struct("<4sHBQHQ")
_MAX_AXES, _MAX_ELEMENTS = 8, 2**40


class FrameError(UserError):
  """The received bytes are not a frame, or the frame has another content than expected."""


class Frame(NamedTuple):
  """One message or file.

  Attributes:
    kind: a kind of ``split/messages.py`` or of this module.
    step: number of the local step in the run.
    tensors: numpy arrays by name.
  """

  kind: str
  step: int
  tensors: Mapping[str, np.ndarray]


def encode(frame: Frame) -> bytes:
  """Returns the bytes of a frame; raises ``ValueError`` if the format cannot express a tensor."""
  body = bytearray()
  for name, tensor in frame.tensors.items():
    array = np.asarray(tensor)
    name_bytes = name.encode()
    if array.dtype not in _DTYPES or array.ndim > _MAX_AXES or len(name_bytes) > 0xFFFF:
      raise ValueError(f"{name!r} of dtype {array.dtype} and {array.ndim} axes fits no frame.")
    body += struct.pack("<H", len(name_bytes)) + name_bytes
    body += struct.pack("<BB", _DTYPES.index(array.dtype), array.ndim)
    body += struct.pack(f"<{array.ndim + 1}Q", *array.shape, array.nbytes)
    body += array.tobytes()
  total = _HEADER.size + len(body)
  kind, count = _KINDS.index(frame.kind), len(frame.tensors)
  return _HEADER.pack(_MAGIC, _VERSION, kind, frame.step, count, total) + bytes(body)


def decode(data: bytes, limit: int | None = None) -> Frame:
  """Decodes a frame; raises ``FrameError`` if ``data`` is malformed or has over ``limit`` bytes."""
  if limit is not None and len(data) > limit:
    raise FrameError(f"a message of {len(data)} bytes is above the limit of {limit}.")
  reader = _Reader(data)
  magic, version, kind, step, count, total = reader.unpack(_HEADER)
  if magic != _MAGIC:
    raise FrameError(f"a message begins with {magic!r}, so it does not belong to this protocol.")
  if version != _VERSION:
    raise FrameError(
      f"a message uses version {version} of the protocol, but this is version {_VERSION}."
    )
  if kind >= len(_KINDS):
    raise FrameError(f"a message has the unknown kind {kind}.")
  if len(data) < total:
    raise FrameError(f"a message is truncated: it has {len(data)} of {total} bytes.")
  tensors: dict[str, np.ndarray] = {}
  for _ in range(count):
    name, array = _tensor(reader)
    if name in tensors:
      raise FrameError(f"a message contains the tensor {name!r} twice.")
    tensors[name] = array
  if reader.remaining or total != len(data):
    raise FrameError(f"a message of {len(data)} bytes has {max(reader.remaining, 1)} too many.")
  return Frame(_KINDS[kind], step, tensors)


class _Reader:
  """Reads bytes in order and never beyond their end."""

  def __init__(self, data: bytes):
    self._data, self._position = memoryview(data), 0

  @property
  def remaining(self) -> int:
    return len(self._data) - self._position

  def take(self, count: int) -> memoryview:
    if count > self.remaining:
      raise FrameError(f"a message is truncated: {count - self.remaining} bytes are missing.")
    self._position += count
    return self._data[self._position - count : self._position]

  def unpack(self, form: struct.Struct) -> tuple:
    return form.unpack(self.take(form.size))


def _tensor(reader: _Reader) -> tuple[str, np.ndarray]:
  (length,) = reader.unpack(struct.Struct("<H"))
  try:
    name = bytes(reader.take(length)).decode()
  except UnicodeDecodeError:
    raise FrameError("a message contains a tensor with a name that is not text.") from None
  dtype, axes = reader.unpack(struct.Struct("<BB"))
  if dtype >= len(_DTYPES):
    raise FrameError(f"the tensor {name!r} has an unknown dtype, number {dtype}.")
  if axes > _MAX_AXES:
    raise FrameError(f"the tensor {name!r} has {axes} axes, more than {_MAX_AXES}.")
  *shape, size = reader.unpack(struct.Struct(f"<{axes + 1}Q"))
  # If an axis has length 0, numpy still multiplies the others, which must not overflow.
  largest = math.prod(max(length, 1) for length in shape)
  if size != math.prod(shape) * _DTYPES[dtype].itemsize or largest > _MAX_ELEMENTS:
    raise FrameError(
      f"the tensor {name!r} claims {size} bytes, which is not the size of {_DTYPES[dtype]}{shape}."
    )
  return name, np.frombuffer(reader.take(size), _DTYPES[dtype]).reshape(shape)


def check_frame(frame: Frame, kind: str, *names: str) -> Frame:
  """Returns a frame of this kind with exactly the tensors ``names``; others raise FrameError."""
  if frame.kind != kind:
    raise FrameError(f"a message has the kind {frame.kind!r} but {kind!r} is expected.")
  if set(frame.tensors) != set(names):
    raise FrameError(
      f"a message of the kind {kind!r} has the tensors {sorted(frame.tensors)} but "
      f"{sorted(names)} are expected."
    )
  return frame


def tree_tensors(tree: PyTree) -> dict[str, np.ndarray]:
  """Returns the leaves of a tree as numpy arrays by the names of their paths."""
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths}


def read_tree(frame: Frame, kind: str, template: PyTree) -> PyTree:
  """Returns a frame's tensors as a tree: the inverse of :func:`tree_tensors`.

  Args:
    frame: the received frame.
    kind: the expected kind.
    template: tree of arrays or shapes that the tensors have to match.

  Raises:
    FrameError: the kind, or a tensor's name, shape or dtype, is not the expected one.
  """
  paths, structure = jax.tree_util.tree_flatten_with_path(template)
  expected = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
  check_frame(frame, kind, *expected)
  for name, leaf in expected.items():
    tensor = frame.tensors[name]
    if tensor.shape != tuple(leaf.shape) or tensor.dtype != leaf.dtype:
      raise FrameError(
        f"the tensor {name!r} is {tensor.dtype}{list(tensor.shape)} but "
        f"{np.dtype(leaf.dtype)}{list(leaf.shape)} is expected."
      )
  return jax.tree_util.tree_unflatten(structure, [frame.tensors[name] for name in expected])


def encode_json(content: dict[str, Any], step: int = 0) -> bytes:
  """Returns the bytes of a frame that contains ``content`` as JSON."""
  return encode(Frame(TEXT, step, {"json": from_bytes(json.dumps(content).encode())}))


def decode_json(data: bytes, limit: int | None = None, **checks: Check) -> dict[str, Any]:
  """Returns the JSON object in a frame.

  Args:
    data: bytes of the frame.
    limit: largest number of bytes allowed; None allows any.
    **checks: a check of ``fields.py`` for each field; exactly these fields must exist.

  Raises:
    FrameError: the bytes are not a frame of JSON, a field is missing or unknown, or a check fails.
  """
  frame = check_frame(decode(data, limit), TEXT, "json")
  return parse_json(frame.tensors["json"].tobytes(), **checks)


def parse_json(data: bytes, **checks: Check) -> dict[str, Any]:
  """Parses a JSON object with the checks of :func:`decode_json`.

  UTF-8 can encode all texts in the result, and all numbers are finite.
  """
  try:
    content = json.loads(data)
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
  except (ValueError, RecursionError):
    raise FrameError("a message that should be JSON cannot be read as JSON.") from None
  if not isinstance(content, dict) or set(content) != set(checks):
    raise FrameError(f"a message of JSON does not have exactly the fields {sorted(checks)}.")
  for name, check in checks.items():
    if not check(content[name]):
      raise FrameError(f"the field {name!r} of a message of JSON has a value that is not allowed.")
  return content


def from_bytes(data: bytes) -> np.ndarray:
  """Returns bytes as an array [n] of uint8."""
  return np.frombuffer(data, np.uint8)
