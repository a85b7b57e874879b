"""Encoding of frames, and bytes that are not a frame."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import fields, frames
from fedjax_norm.wire.protocol.frames import Frame, FrameError

DTYPES = ("f4", "i4", "u1", "u2", "u4", "u8", "f2")


def tensor(dtype: str, shape: list[int], byte: int) -> np.ndarray:
  array = np.zeros(shape, dtype)
  return np.frombuffer(bytes([byte]) * array.nbytes, dtype).reshape(shape)


TENSORS = st.dictionaries(
  st.text(max_size=4),
  st.builds(
    tensor, st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 255)
  ),
  max_size=2,
)
FRAMES = st.builds(
  Frame, st.sampled_from(["activation", "gradient", "state"]), st.integers(0, 2**64 - 1), TENSORS
)


@settings(max_examples=25)
@given(FRAMES)
def test_decoding_inverts_encoding(frame):
  found = frames.decode(frames.encode(frame))
  assert (found.kind, found.step) == (frame.kind, frame.step)
  assert list(found.tensors) == list(frame.tensors)
  for name, tensor in frame.tensors.items():
    assert found.tensors[name].dtype == tensor.dtype
    assert found.tensors[name].shape == tensor.shape
    assert found.tensors[name].tobytes() == tensor.tobytes()


@settings(max_examples=25)
@given(FRAMES, st.data())
def test_every_truncation_and_every_addition_is_refused(frame, data):
  whole = frames.encode(frame)
  cut = data.draw(st.integers(0, len(whole) - 1))
  with pytest.raises(FrameError, match="truncated"):
    frames.decode(whole[:cut])
  with pytest.raises(FrameError, match=r"has \d+ too many"):
    frames.decode(whole + b"x" * data.draw(st.integers(1, 3)))


@settings(max_examples=60)
@given(FRAMES, st.data())
def test_changed_bytes_are_decoded_or_refused(frame, data):
  whole = bytearray(frames.encode(frame))
  for _ in range(data.draw(st.integers(1, 3))):
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
  try:
    found = frames.decode(bytes(whole))
  except FrameError:
    return
  assert sum(t.nbytes for t in found.tensors.values()) <= len(whole)


def test_an_empty_tensor_does_not_hide_a_huge_one():
  empty = frames.encode(Frame("state", 0, {"x": np.zeros((0, 3), np.float32)}))
  at = len(empty) - 16
  with pytest.raises(FrameError, match="is not the size"):
    frames.decode(empty[:at] + struct.pack("<Q", 2**62) + empty[at + 8 :])


ONE = frames.encode(Frame("activation", 3, {"x": np.ones((2, 3), np.float32)}))
AT = len(ONE) - 24 - 3 * 8 - 2  # position of the dtype, before the axes, three lengths and the data


@pytest.mark.parametrize(
  ("data", "text"),
  [
    (b"HTTP" + ONE[4:], "does not belong to this protocol"),
    (ONE[:4] + b"\x09\0" + ONE[6:], "version 9"),
    (ONE[:6] + b"\xff" + ONE[7:], "unknown kind 255"),
    (ONE[:AT] + b"\xee" + ONE[AT + 1 :], "unknown dtype"),
    (ONE[: AT + 1] + b"\x20" + ONE[AT + 2 :], "32 axes"),
    (ONE[: AT + 2] + struct.pack("<Q", 4) + ONE[AT + 10 :], "24 bytes, which is not the size"),
    (ONE[: AT + 2] + struct.pack("<Q", 2**63) + ONE[AT + 10 :], "is not the size"),
    (b"", "truncated"),
  ],
)
def test_a_wrong_field_is_named(data, text):
  with pytest.raises(FrameError, match=text):
    frames.decode(data)


def test_a_limit_and_twins_are_refused():
  assert frames.decode(ONE, len(ONE)).step == 3
  with pytest.raises(FrameError, match="above the limit of 10"):
    frames.decode(ONE, 10)
  head, body = ONE[:17], ONE[25:]
  twins = ONE[:15] + b"\2\0" + struct.pack("<Q", len(ONE) + len(body)) + body * 2
  assert head[15:17] == b"\1\0"
  with pytest.raises(FrameError, match="'x' twice"):
    frames.decode(twins)


def test_trees_are_checked_against_a_template():
  tree = Part({"params": {"w": np.ones((2, 3), np.float32)}}, (jnp.zeros(2, jnp.bfloat16),))
  frame = frames.decode(frames.encode(Frame("state", 0, frames.tree_tensors(tree))))
  found = frames.read_tree(frame, "state", tree)
  assert isinstance(found, Part)
  np.testing.assert_array_equal(found.variables["params"]["w"], 1)
  assert found.opt_state[0].dtype == jnp.bfloat16
  narrow = Part({"params": {"w": np.ones((2, 2), np.float32)}}, tree.opt_state)
  with pytest.raises(FrameError, match=r"float32\[2, 3\] but float32\[2, 2\] is expected"):
    frames.read_tree(frame, "state", narrow)
  whole = Part({"params": {"w": np.ones((2, 3), np.int32)}}, tree.opt_state)
  with pytest.raises(FrameError, match=r"float32\[2, 3\] but int32\[2, 3\] is expected"):
    frames.read_tree(frame, "state", whole)
  with pytest.raises(FrameError, match="are expected"):
    frames.read_tree(frame, "state", Part(tree.variables, ()))
  with pytest.raises(FrameError, match="kind 'state' but 'gradient'"):
    frames.read_tree(frame, "gradient", tree)


def test_text_is_checked():
  one, maybe = {"a": fields.integer}, fields.optional(fields.string)
  assert frames.decode_json(frames.encode_json({"a": 1, "b": None}), **one, b=maybe)["a"] == 1
  for content, checks in (
    ({"a": "1"}, one),
    ({"a": 1, "b": 2}, one),
    ({"a": True}, one),
    ({}, one),
  ):
    with pytest.raises(FrameError, match="of JSON"):
      frames.decode_json(frames.encode_json(content), **checks)
  with pytest.raises(FrameError, match="cannot be read as JSON"):
    frames.parse_json(b"[" * 10**5, **one)
  # JSON that no file or terminal can hold.
  for data in (rb'"\ud800"', b'{"b": ["\xed\xa0\x80"]}', rb'{"\udfff": 1}', b"NaN", b"1e999"):
    with pytest.raises(FrameError, match="cannot be read as JSON"):
      frames.parse_json(b'{"a": %s}' % data, a=lambda value: True)
  with pytest.raises(ValueError, match="fits no frame"):
    frames.encode(Frame("state", 0, {"x": np.zeros(1, complex)}))
