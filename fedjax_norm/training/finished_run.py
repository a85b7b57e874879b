"""A finished run as a library object: its options, its model, and predictions for new images."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm import models, tree_leaves
from fedjax_norm.data.transforms.preprocess import EvalTransform, Preprocess, transforms_of
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.objectives import TASKS
from fedjax_norm.split.ensemble_members import make_ensemble, parse_members
from fedjax_norm.split.messages import padded
from fedjax_norm.training.storage.final_model import BEST_MODEL, MODEL, load_model
from fedjax_norm.training.storage.run_folder import read_config
from fedjax_norm.training.storage.saved_run import check_ended
from fedjax_norm.training.storage.serving_files import (
  STATISTICS,
  Serving,
  read_serving,
  write_serving,
)
from fedjax_norm.training.task.task import Task, far_outside
from fedjax_norm.typing import Variables


def save_serving(path: Path, config: Any, task: Task) -> None:
  """Writes what predictions need besides the model to a run's folder.

  Args:
    path: the run's folder.
    config: the run's options of the model, the image size and the preprocessing.
    task: the run's task, whose model is the one that the run tests in all rounds.
  """
  scale = task.units
  options = {one.name: getattr(config, one.name) for one in dataclasses.fields(Preprocess)}
  serving = Serving(
    task=task.kind,
    names=task.source.target_names or task.source.class_names,
    image_shape=task.image_shape,
    image_dtype=task.source.train.images.dtype.name,
    image_size=config.image_size,
    value_range=task.value_range,
    model=config.model,
    stem=config.stem,
    members=config.members,
    norm=task.model.norm,
    preprocess=Preprocess(**options),
    target_mean=tuple(scale.mean.tolist()) if scale else (),
    target_std=tuple(scale.std.tolist()) if scale else (),
    statistics=task.statistics,
  )
  write_serving(path, serving)


def load_run(path: str | os.PathLike, best: bool = False) -> "FinishedRun":
  """Loads the options and the model of a finished run; writes nothing to its folder.

  Args:
    path: the run's folder; for several seeds, the folder of one seed.
    best: whether to load the model of the round with the best validation value, which a run with
      ``--validation_share`` saves, instead of the final model.

  Raises:
    UserError: the folder contains no finished run or no such model, or its files are damaged; or
      the run continues with more rounds and has not reached the last one.
  """
  path = Path(path).expanduser()
  variables = load_model(path, best)
  check_ended(path)
  return FinishedRun(path, read_config(path), variables, BEST_MODEL if best else MODEL)


def has_single_model(config: Mapping[str, Any], norm: NormSpec) -> bool:
  """Returns whether all clients of a run use the saved model.

  Otherwise each client has local running statistics or, with FedBN, local norm parameters.

  Args:
    config: flag name -> value, of ``config.json``.
    norm: the model's norm.
  """
  if "skewscout" in config and config["algorithm"] != "bsp":
    return True  # experiments.decentralized saves the mean of all partitions' models
  local = config.get("batch_stats") == "local" or config.get("fedbn")
  return not (local and norm.has_running_statistics)


def check_single_model(config: Mapping[str, Any], norm: NormSpec, path: str | os.PathLike) -> None:
  """Raises UserError if not all clients of the run in ``path`` use the saved model."""
  if not has_single_model(config, norm):
    raise UserError(
      f"the clients of the run in {path} have local running statistics (--batch_stats=local or "
      "--fedbn), so there is no single model; pass a run without these options."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
  """A finished run, made by :func:`load_run`.

  Attributes:
    path: the run's folder.
    config: flag name -> value, as in ``config.json``.
    variables: the model's variables as NumPy arrays.
    file: name of the file of the model.
  """

  path: Path
  config: dict[str, Any]
  variables: Variables
  file: str = MODEL

  @property
  def class_names(self) -> tuple[str, ...]:
    """The names of the outputs, which are classes, a regression's numbers or pixels' classes."""
    return self.serving.names

  @functools.cached_property
  def serving(self) -> Serving:
    """What predictions need besides the model's variables.

    Raises:
      UserError: the run has no single model or no classes to predict, did not save what predictions
        need, or its files are damaged.
    """
    serving = read_serving(self.path)
    if serving.task not in TASKS:
      raise UserError(
        f"the run in {self.path} has the task {serving.task}, whose model predicts no classes; pass"
        f" a run with the task {', '.join(TASKS[:-1])} or {TASKS[-1]}."
      )
    check_single_model(self.config, serving.norm, self.path)
    return serving

  def predict(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Returns predictions for images, which are prepared as in training.

    Args:
      images: [N, H, W, C], or [N, H, W] for one channel, of the size of the training images; uint8,
        or floating on the scale of the training images.
      batch_size: number of images that are predicted together.

    Returns:
      For classification, probabilities [N, classes] float32, also those of an ensemble's vote. For
      regression, numbers [N, D] float64 in the targets' units. For segmentation, the class of every
      pixel, [N, H, W] int32. ``class_names`` has the names.

    Raises:
      UserError: the images have another shape, dtype or scale; see also ``serving``.
    """
    return self.interpret(self.outputs(images, batch_size))

  def interpret(self, outputs: np.ndarray) -> np.ndarray:
    """Returns predictions (see :meth:`predict`) from the model's outputs."""
    serving = self.serving
    if serving.task == "regression":
      return outputs * np.array(serving.target_std) + np.array(serving.target_mean)
    if serving.task == "segmentation":
      return outputs.argmax(-1).astype(np.int32)
    return np.asarray(jax.nn.softmax(outputs))

  def outputs(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Returns the model's outputs, such as logits, in float32; the arguments are of ``predict``."""
    images = self._checked(np.asarray(images))
    if batch_size < 1:
      raise UserError(f"the batch size is {batch_size}; it must be at least 1.")
    size = min(batch_size, len(images))  # the last batch is padded, so that one program is compiled
    batches = [images[begin : begin + size] for begin in range(0, len(images), size)]
    results = [self._apply(self.variables, padded(b, size))[: len(b)] for b in batches]
    return np.concatenate([np.asarray(result) for result in results])

  @functools.cached_property
  def _apply(self) -> Callable[[Variables, np.ndarray], jax.Array]:
    """(variables, stored images [B, H, W, C]) -> outputs of the model in float32, compiled."""
    serving = self.serving
    model = _build(serving)
    transform = transforms_of(serving.preprocess, serving.statistics)[-1]

    def apply(variables: Variables, images: jax.Array) -> jax.Array:
      outputs: Any = model.apply(variables, transform(images), Mode())
      return outputs.astype(jnp.float32)

    self._check_fit(model, transform)
    return jax.jit(apply)

  def _check_fit(self, model: nn.Module, transform: EvalTransform) -> None:
    """Raises UserError if the variables or the statistics are not those of the model."""
    shape = self.serving.image_shape
    expected = jax.eval_shape(lambda: models.init(model, jax.random.key(0), shape))
    shapes = [
      {name: getattr(leaf, "shape", None) for name, leaf in tree_leaves.flatten(tree).items()}
      for tree in (self.variables, expected)
    ]
    try:
      inputs = jax.eval_shape(transform, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape
    except (TypeError, ValueError, KeyError):  # of arrays that do not fit, or are missing
      inputs = ()
    if shapes[0] != shapes[1] or inputs != (1, *shape):
      raise UserError(
        f"{self.path / self.file} or {STATISTICS} does not have the arrays of the run's model; "
        "restore the files of the run's folder, or run in a new --workdir."
      )

  def _checked(self, images: np.ndarray) -> np.ndarray:
    """Returns images as [N, H, W, C]; raises UserError if they are not like the training images."""
    serving, given = self.serving, images.shape
    if images.ndim == 3 and serving.image_shape[2] == 1:
      images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != serving.image_shape or not len(images):
      raise UserError(
        f"the images have the shape {given}, but the model of the run in {self.path} needs "
        f"[N, {', '.join(map(str, serving.image_shape))}] with N of at least 1; resize or convert "
        "the images."
      )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
      raise UserError(f"the images are {images.dtype}; convert them to uint8 or float32.")
    trained, lowest, highest = np.dtype(serving.image_dtype), *serving.value_range
    if far_outside(trained, (lowest, highest)):
      unfit = images.dtype == np.uint8
    else:
      unfit = far_outside(images.dtype, (float(images.min()), float(images.max())))
      lowest, highest = 0, 1
    if unfit:
      raise UserError(
        f"the images have values from {images.min():g} to {images.max():g} of the type "
        f"{images.dtype}, but the run trained on values from {lowest:g} to {highest:g}; scale the "
        "images as the training images."
      )
    return images


def _build(serving: Serving) -> nn.Module:
  """Returns the model of a run."""
  outputs, shape = len(serving.names), serving.image_shape
  if serving.members is None:
    return models.create(serving.model, serving.norm, outputs, shape, serving.stem)
  members = parse_members(serving.members, serving.norm)
  return make_ensemble(members, outputs, shape, serving.stem)
