"""Random samples of examples."""

import numpy as np
import pytest

from fedjax_norm.data.examples import Examples, sample
from fedjax_norm.errors import UserError

ALL = Examples(np.arange(40).reshape(20, 2, 1, 1), np.arange(20) % 3, np.arange(20) // 4)


def test_a_sample_is_a_subset_of_a_larger_one_and_keeps_examples_intact():
  small, large = sample(ALL, 0.25, 3), sample(ALL, 0.6, 3)
  assert (len(small.labels), len(large.labels)) == (5, 12)
  for part in (small, large):
    ids = part.images[:, 0, 0, 0] // 2
    assert (np.diff(ids) > 0).all()
    for values, expected in zip(part[:3], ALL[:3], strict=True):
      np.testing.assert_array_equal(values, expected[ids])
    assert part.targets is None
  assert set(small.images.ravel()) < set(large.images.ravel())
  assert (sample(ALL, 0.5, 3).images != sample(ALL, 0.5, 4).images).any()
  np.testing.assert_array_equal(sample(ALL, 1.0, 3).images, ALL.images)
  assert len(sample(ALL, 1e-9, 0).labels) == 1


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_shares_out_of_range_are_refused(share):
  with pytest.raises(UserError, match="share"):
    sample(ALL, share, 0)
