"""Differences of bit patterns restore the weights exactly."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedjax_norm.split.weight_delta import difference, restore

_FLOATS = arrays(np.float32, 5, elements=st.floats(width=32))


@settings(max_examples=50)
@given(_FLOATS, _FLOATS)
def test_floats_are_restored_bit_for_bit(now, start):
  sent = difference({"w": now}, {"w": start})
  expected = now.view(np.uint32) - start.view(np.uint32)  # numpy wraps around as well
  np.testing.assert_array_equal(sent["w"], expected)
  assert np.asarray(restore(sent, {"w": start})["w"]).tobytes() == now.tobytes()


def test_other_dtypes():
  now = {"a": jnp.array([1.5, -2.0], jnp.bfloat16), "b": jnp.array([3, -7], jnp.int32)}
  start = {"a": jnp.array([0.1, 4.0], jnp.bfloat16), "b": jnp.array([-1, 9], jnp.int32)}
  back = restore(difference(now, start), start)
  for name in now:
    assert back[name].dtype == now[name].dtype
    np.testing.assert_array_equal(back[name], now[name])
