"""Trains a student on a teacher's outputs for public images (paper 003, sec. 6)."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.errors import DivergedError
from fedjax_norm.evaluation.batches import stack_batches
from fedjax_norm.local_training import SgdConfig, optimizer
from fedjax_norm.norm import Mode
from fedjax_norm.options import option
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training.evaluator import make_summarize, make_test
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.resume import resume
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.progress import Progress
from fedjax_norm.training.terminal.signals import uninterrupted
from fedjax_norm.typing import Array, Key, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class DistilConfig(SgdConfig):
  """Options of the training of the student."""

  group = "distillation"

  lr: float = option(0.02, "The learning rate of the student.", above=0)
  epochs: int = option(20, "The number of passes over the public images.", least=1)
  eval_every: int = option(1, "The number of epochs between two evaluations.", least=1)
  temperature: float = option(
    2.0,
    "The temperature T, which divides the logits of teacher and student. With a higher T the "
    "student learns more from the classes that the teacher finds less likely.",
    above=0,
  )
  hard: float = option(
    0.0,
    "The weight of the public images' labels in the loss, from 0 (only the teacher's outputs) to 1 "
    "(only the labels).",
    least=0,
    most=1,
  )
  seed: int = option(
    0,
    "The random seed of the student's initial weights, the order of the images and dropout.",
    least=0,
    most=2**32 - 1,
  )


class PublicData(NamedTuple):
  """The public images that the student learns from.

  Attributes:
    images: [N, H, W, C] stored images.
    teacher_logits: [N, C] float32 outputs of the teacher.
    labels: [N] int32 labels, not used if the option ``hard`` is 0.
  """

  images: Array
  teacher_logits: Array
  labels: Array


class Student(NamedTuple):
  """The variables and the optimizer state of the student."""

  variables: Variables
  opt_state: PyTree


class _State(NamedTuple):
  """The content of a checkpoint."""

  student: Student
  epoch: np.int64
  seconds: np.float64


def distillation_loss(
  logits: Array, teacher_logits: Array, labels: Array, temperature: float, hard: float
) -> Array:
  """Returns the student's loss for each example, [B].

    (1 - h) T^2 KL(softmax(t / T) || softmax(s / T)) - h log softmax(s)[label]

  Here s and t are the logits [B, C] of student and teacher, T is the temperature, and h is the
  weight ``hard`` of the labels [B]. The factor T^2 keeps the scale of the gradient when T changes
  (Hinton et al. 2015, sec. 2).
  """
  student, teacher = (
    jax.nn.log_softmax(a.astype(jnp.float32) / temperature) for a in (logits, teacher_logits)
  )
  soft_loss = temperature**2 * (jnp.exp(teacher) * (teacher - student)).sum(-1)
  hard_loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
  return (1 - hard) * soft_loss + hard * hard_loss


def make_epoch(
  task: Task, config: DistilConfig
) -> Callable[[Student, PublicData, Array, Key], tuple[Student, Array]]:
  """Returns a function that trains one epoch.

  (student, public data, number of the epoch, random key) -> (student, mean loss). Auxiliary
  classifiers of the student learn the class that the teacher finds most likely.
  """
  model, sgd, size = task.model, optimizer(config), config.batch_size

  def epoch(student: Student, public: PublicData, number: Array, key: Key) -> tuple[Student, Array]:
    count = len(public.images)
    steps = -(-count // size)
    order_key, dropout_key = jax.random.split(jax.random.fold_in(key, number))
    positions = jnp.arange(steps * size)
    mask, order = positions < count, jax.random.permutation(order_key, count)[positions % count]

    def body(
      carry: tuple[Student, Array], step: tuple[Array, Array, Array]
    ) -> tuple[tuple[Student, Array], None]:
      ((variables, opt_state), total), (ids, real, index) = carry, step
      images, teacher_logits = task.eval_transform(public.images[ids]), public.teacher_logits[ids]
      rngs, changing = (
        {"dropout": jax.random.fold_in(dropout_key, index)},
        ["batch_stats", "losses"],
      )
      weights, progress = real.astype(jnp.float32), number + index / steps
      mode = Mode(train=True, mask=weights, step=progress, labels=teacher_logits.argmax(-1))

      def loss(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        given = {**variables, "params": params}
        logits, changed = model.apply(given, images, mode, mutable=changing, rngs=rngs)
        labels, hard = public.labels[ids], config.hard
        each = distillation_loss(logits, teacher_logits, labels, config.temperature, hard)
        summed = jnp.where(real, each, 0).sum()
        auxiliary = sum(jax.tree.leaves(changed.get("losses", {})), jnp.float32(0))
        return (summed + auxiliary) / real.sum(), (summed, changed.get("batch_stats", {}))

      grads, (summed, stats) = jax.grad(loss, has_aux=True)(variables["params"])
      updates, opt_state = sgd.update(grads, opt_state, variables["params"])
      params = optax.apply_updates(variables["params"], optax.tree.scale(-config.lr, updates))
      after = {"params": params, **({"batch_stats": stats} if stats else {})}
      return (Student(after, opt_state), total + summed), None

    batches = (order.reshape(steps, size), mask.reshape(steps, size), jnp.arange(steps))
    (student, total), _ = jax.lax.scan(body, (student, jnp.float32(0)), batches)
    return student, total / count

  return jax.jit(epoch)


def distil(
  task: Task,
  public: PublicData,
  config: DistilConfig,
  traffic: Traffic,
  folder: RunFolder,
  *,
  eval_batch_size: int = 256,
  show_progress: bool = False,
) -> tuple[Variables, list[dict[str, Any]]]:
  """Trains a student, or resumes its training from the folder's checkpoint, bit for bit.

  Args:
    task: the student's model, transform of images and test images.
    public: training data of the student.
    config: the options of the training.
    traffic: bytes exchanged to compute the teacher's outputs, written to every row of metrics.
    folder: folder of the rows of metrics and of the checkpoints.
    eval_batch_size: test examples per batch.
    show_progress: whether to draw a progress bar.

  Returns:
    (variables of the student, rows of metrics).

  Raises:
    DivergedError: the training loss or the test loss is infinite or not a number.
  """
  test = make_test(task, client_mapping.create("scan", num_clients=1))
  summarize = make_summarize(task, task.source.test)
  test_batches = stack_batches(task.source.test, eval_batch_size)
  epoch = make_epoch(task, config)
  variables = jax.tree.map(jnp.asarray, initial_variables(task, config.seed))
  student = Student(variables, optimizer(config).init(variables["params"]))
  state = _State(student, np.int64(0), np.float64(0))
  public = PublicData(*map(jnp.asarray, public))
  key = stream(jax.random.key(config.seed), Stream.DISTIL)
  with (
    Checkpoints(folder.path / "checkpoints") as checkpoints,
    Progress(config.epochs, enabled=show_progress, unit="epoch") as bar,
  ):
    if folder.resumed:
      state, _ = resume(folder, checkpoints, state)
    student, done, seconds = state.student, int(state.epoch), float(state.seconds)
    while done < config.epochs:
      started = time.perf_counter()
      until = min(config.epochs, done + config.eval_every - done % config.eval_every)
      for index in range(done, until):
        student, loss = epoch(student, public, jnp.int32(index), key)
      columns = summarize(test.evaluate_model(student.variables, test_batches))
      if not np.isfinite([loss, columns["loss"]]).all():
        raise DivergedError(
          f"the student's loss became infinite or not a number between epochs {done} and {until}; "
          "lower the learning rate or clip gradients."
        )
      elapsed = time.perf_counter() - started
      speed = len(public.images) * (until - done) / elapsed
      done, seconds = until, seconds + elapsed
      row = {"round": done, "train_loss": float(loss), **columns, "rate": config.lr}
      row |= {**traffic._asdict(), "seconds": seconds}
      with uninterrupted():
        # Row before checkpoint: resuming removes an extra row but could not restore a missing one.
        folder.append(row)
        checkpoints.save(done, _State(student, np.int64(done), np.float64(seconds)))
      bar.update(done, float(loss), f"top-1 {columns['top1']:.2%}", speed)
  return jax.tree.map(np.asarray, student.variables), folder.rows()
