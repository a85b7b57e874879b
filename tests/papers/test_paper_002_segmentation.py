"""The segmentation cells of paper 002: valid flags, data at each scale, claims about the cells."""

from helpers.paper_tables import resolve

from fedjax_norm import models
from fedjax_norm.cli import train
from fedjax_norm.papers.paper_002_segmentation import TABLES
from fedjax_norm.papers.plan import with_data_dir


def test_the_cells_differ_only_in_the_norm():
  (table,) = TABLES
  for scale, data in (("smoke", "digits"), ("small", "digits"), ("full", "masks:cityscapes")):
    configs = [resolve(cell, scale) for cell in table.cells]
    for config in configs:
      train.check(config)
      models.create(config.model, config.make_norm(1), 19, (config.image_size or 8,) * 2 + (3,))
    assert {(config.data, config.task) for config in configs} == {(data, "segmentation")}
    assert {config.norm for config in configs} == {"bn", "gn", "fixbn"}
    same = {str(sorted({**vars(config), "norm": None}.items(), key=str)) for config in configs}
    assert len(same) == 1
  labels = [
    key for claim in table.claims for one in claim.statement.contrasts for key in one.weights
  ]
  assert set(labels) == {cell.label for cell in table.cells}
  assert with_data_dir("masks:cityscapes", "/data") == {"data": "masks:/data/cityscapes"}
