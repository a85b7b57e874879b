"""The models by name, and the functions that create and initialize them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm import host_memory
from fedjax_norm.errors import UserError
from fedjax_norm.models.alexnet import AlexNet
from fedjax_norm.models.face import Face
from fedjax_norm.models.googlenet import GoogLeNet
from fedjax_norm.models.inception import InceptionV3
from fedjax_norm.models.recurrent import LSTM
from fedjax_norm.models.resnet import ResNet
from fedjax_norm.models.segmentation import FCN
from fedjax_norm.models.small import CNN, LeNet, LeNet5, NIIDNet, Tiny
from fedjax_norm.models.stages import Staged
from fedjax_norm.models.vgg import VGG16
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.objectives import TASKS
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Key, Variables


class ImageNetStem(NamedTuple):
  """The first layers for large images, of a model that also has first layers for small images.

  Attributes:
    min_size: minimum height and width of images, in pixels.
    default_from: height and width, in pixels, from which on this stem is the default.
  """

  min_size: int
  default_from: int = 128


class Entry(NamedTuple):
  """The description of a model.

  Attributes:
    build: (norm after every convolution, number of outputs, ...) -> module.
    min_size: minimum height and width of images, in pixels, with the stem for small images.
    groups: default ``groups`` or ``group_size`` of the norms gn and bgn.
    residual: whether the model is a ResNet, which can have Fixup.
    imagenet: stem for large images, if the model has two stems.
    embeds: whether the model has a method ``embed``, whose embeddings verification compares.
    segments: whether the model predicts the class of every pixel, instead of one output per image.
    multiple: number that the height and width of images must be multiples of.
  """

  build: Callable[..., Staged]
  min_size: int
  groups: Mapping[str, Any]
  residual: bool = False
  imagenet: ImageNetStem | None = None
  embeds: bool = False
  segments: bool = False
  multiple: int = 1


def _resnet(blocks: tuple[int, ...], **fields: Any) -> Callable[..., Staged]:
  return functools.partial(ResNet, blocks, **{"features": 64, **fields})


_EIGHT = MappingProxyType({"groups": 8})
_THIRTY_TWO = MappingProxyType({"groups": 32})  # paper 000, sec. 6.2
_STEM = ImageNetStem(32)


def _resnet20(features: int) -> Entry:
  build = _resnet((3, 3, 3), features=features, projection=False)
  return Entry(build, 8, _EIGHT, residual=True)


def _size(channels: int) -> Mapping[str, int]:
  return MappingProxyType({"group_size": channels})


MODELS: Mapping[str, Entry] = MappingProxyType(
  {
    "tiny": Entry(Tiny, 3, _EIGHT),
    "lenet": Entry(LeNet, 8, _size(2)),  # paper 004, sec. 5.2
    "lenet5": Entry(LeNet5, 13, _size(10)),  # divides 20 and 50
    "cnn": Entry(CNN, 6, _EIGHT),
    "niid": Entry(NIIDNet, 16, _size(2)),  # divides 6 and 16
    "resnet20": _resnet20(16),
    "resnet20_narrow": _resnet20(8),
    "resnet20_wide": _resnet20(32),
    "resnet10": Entry(_resnet((1, 1, 1, 1)), 8, _THIRTY_TWO, residual=True, imagenet=_STEM),
    "resnet18": Entry(_resnet((2, 2, 2, 2)), 8, _THIRTY_TWO, residual=True, imagenet=_STEM),
    "resnet50": Entry(
      _resnet((3, 4, 6, 3), bottleneck=True), 8, _THIRTY_TWO, residual=True, imagenet=_STEM
    ),
    "vgg16": Entry(VGG16, 8, _THIRTY_TWO, imagenet=_STEM),
    "alexnet": Entry(AlexNet, 8, _EIGHT, imagenet=ImageNetStem(63)),
    # Paper 004 trains GoogLeNet with this stem on 32x32 pixels. The group size of 8 divides the
    # channels of all layers of GoogLeNet, and 16 (Wu and He 2018) those of Inception-v3.
    "googlenet": Entry(GoogLeNet, 8, _size(8), imagenet=ImageNetStem(32, 32)),
    "inception_v3": Entry(InceptionV3, 8, _size(16), imagenet=ImageNetStem(75)),
    "face": Entry(Face, 16, _EIGHT, embeds=True),
    "lstm": Entry(LSTM, 2, _EIGHT),
    "fcn": Entry(FCN, 4, _EIGHT, segments=True, multiple=4),
  }
)


STEMS = ("auto", "cifar", "imagenet")


@dataclasses.dataclass(frozen=True)
class ModelConfig(Options):
  """The options that choose the task and the model."""

  group = "model"

  task: str = option(
    "classification",
    "The model predicts the class of an image (classification), numbers (regression, with half "
    "the squared error as the loss), the class of every pixel (segmentation, with --model=fcn), or "
    "whether two test images show the same identity (verification, with --model=face).",
    choices=(*TASKS, "verification"),
  )
  pairs: str | None = option(
    None,
    "Path of a file with the pairs of test images to verify, in the format of LFW's pairs.txt, for "
    "--data=folder:PATH or csv:PATH; by default pairs are drawn.",
    needs="task=verification",
  )
  model: str = option(
    "tiny",
    "Neural network. Convolutional: tiny, lenet (of Caffe, for CIFAR-10), lenet5 (for MNIST), cnn, "
    "niid (of NIID-Bench), alexnet, vgg16, googlenet, inception_v3, and the resnets with 10 to 50 "
    "layers; resnet20_narrow and resnet20_wide have half and twice the channels of resnet20. lstm "
    "reads an image row by row, fcn is for segmentation, face for verification. The command "
    "python -m experiments.stages --model=NAME lists the stages of a model.",
    choices=tuple(MODELS),
  )
  stem: str = option(
    "auto",
    "First layers of ResNets, vgg16, alexnet, googlenet and inception_v3: for small images "
    "(cifar) or large images (imagenet); auto decides by the image size.",
    choices=STEMS,
  )


def entry(name: str) -> Entry:
  """Returns the description of a model; raises UserError if ``MODELS`` does not have the name."""
  if name not in MODELS:
    raise UserError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}.")
  return MODELS[name]


def create(
  name: str, norm: NormSpec, num_classes: int, image_shape: tuple[int, int, int], stem: str = "auto"
) -> Staged:
  """Returns a model, after checks that it accepts the norm and the images.

  Args:
    name: key of ``MODELS``.
    norm: norm after the convolutions; without groups, it gets the model's default groups.
    num_classes: number of outputs (classes, or numbers of a regression).
    image_shape: (H, W, C).
    stem: ``'cifar'``, ``'imagenet'`` or ``'auto'`` (by the image size), for models with two stems.

  Raises:
    UserError: the model or the stem is unknown, the model does not accept the image size, Fixup is
      used without a ResNet, or a layer cannot have the norm.
  """
  info = entry(name)
  host_memory.check(
    4 * math.prod(image_shape),
    f"an image of {'x'.join(map(str, image_shape))}",
    "choose a smaller image size",
  )
  host_memory.check(4 * num_classes, f"an output of {num_classes:,} classes", "choose fewer")
  if stem not in STEMS:
    raise UserError(f"unknown stem {stem!r}; choose auto, cifar or imagenet.")
  if stem != "auto" and not info.imagenet:
    raise UserError(f"model {name!r} has a single stem; drop the stem {stem!r}.")
  if norm.fixup and not info.residual:
    residual = ", ".join(name for name, entry in MODELS.items() if entry.residual)
    raise UserError(f"Fixup needs residual branches, which {name!r} lacks; choose {residual}.")
  fields, min_size = {}, info.min_size
  if info.imagenet:
    if stem == "auto":
      stem = "imagenet" if min(image_shape[:2]) >= info.imagenet.default_from else "cifar"
    if stem == "imagenet":
      min_size = info.imagenet.min_size
    fields["stem"] = stem
  if min(image_shape[:2]) < min_size:
    raise UserError(
      f"model {name!r} needs images of at least {min_size}x{min_size} pixels; "
      f"these are {image_shape[0]}x{image_shape[1]}, so enlarge them (--image_size) or "
      "choose another model."
    )
  if any(side % info.multiple for side in image_shape[:2]):
    raise UserError(
      f"model {name!r} needs images whose sides are multiples of {info.multiple}; these are "
      f"{image_shape[0]}x{image_shape[1]}, so resize them."
    )
  if norm.needs_groups:
    norm = dataclasses.replace(norm, **info.groups)
  model = info.build(norm=norm, num_classes=num_classes, **fields)
  norm_modules(model, image_shape)
  return model


def init(
  model: nn.Module, key: Key, image_shape: tuple[int, int, int], traced: bool = True
) -> Variables:
  """Returns initial ``params`` and, if the norm has running statistics, ``batch_stats``.

  Outside of traced functions, ``traced=False`` compiles in a third of the time on a CPU.
  """
  try:
    hash(model)
  except TypeError:  # a user-defined module may have fields that are no keys of a cache
    return jax.jit(lambda key: _init(model, key, image_shape))(key)
  return (_traced_init if traced else _quick_init())(model, key, image_shape)


def _init(model: nn.Module, key: Key, image_shape: tuple[int, int, int]) -> Any:
  return model.init(key, _image(image_shape), Mode())


# Compiled once for a model, however many keys it is initialized with.
_traced_init = jax.jit(_init, static_argnums=(0, 2))


@functools.cache
def _quick_init() -> Callable[..., Any]:
  """Returns ``_traced_init`` with less optimization, which gives the same bits."""
  options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
  return jax.jit(_init, static_argnums=(0, 2), compiler_options=options)


def data_init(model: nn.Module, variables: Variables, images: jax.Array) -> Variables:
  """Returns variables with the data-dependent initialization of weight normalization.

  For the given images, the pre-activations of each layer then have mean 0 and standard deviation 1
  (Salimans and Kingma 2016, sec. 3).

  Args:
    model: model with weight normalization.
    variables: initial variables of the model.
    images: [N, H, W, C], the batch that determines the initialization of all clients.
  """

  def run(variables: Variables, images: jax.Array) -> Variables:
    mode = Mode(train=True, dropout=False, data_init=True)
    _, changed = model.apply(variables, images, mode, mutable=["params", "batch_stats"])
    return {**variables, "params": changed["params"]}

  return jax.jit(run)(variables, images)


def _image(image_shape: tuple[int, int, int]) -> jax.Array:
  return jnp.zeros((1, *image_shape), jnp.float32)


def norm_modules(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
  """Returns the number of groups in each norm layer of a model: {layer path 'a/b': groups}.

  The model is traced with shapes only.

  Raises:
    UserError: a layer cannot have the norm with images of this shape.
  """
  norms: dict[str, int] = {}

  def record(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, Norm) and (spec := context.module.spec).normalizes:
      norms["/".join(context.module.path)] = spec.num_groups(args[0].shape[-1])
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(lambda: model.init(jax.random.key(0), _image(image_shape), Mode()))
  return norms
