"""The picture of a confusion matrix."""

import numpy as np
import pytest

from fedjax_norm.plots.confusion import confusion_figure


def test_cells_are_shares_of_the_true_class_with_counts():
  counts = np.array([[3, 1], [0, 0]])
  axes, _ = confusion_figure(counts, ["cat", "a name that is much too long"], "a run").axes
  np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
  cells = {text.get_position(): text.get_text() for text in axes.texts}
  assert cells == {(0, 0): "3", (1, 0): "1"}  # x is the predicted class
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ["cat", "a name tha… too long"]
  assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")


def test_many_classes_have_a_few_names_and_no_counts():
  axes, _ = confusion_figure(np.eye(50, dtype=int), [f"c{i}" for i in range(50)], "").axes
  assert not axes.texts
  assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["c0", "c3"]


def test_wrong_shapes_are_refused():
  with pytest.raises(ValueError, match=r"\(2, 3\)"):
    confusion_figure(np.ones((2, 3)), ["a", "b"], "")
