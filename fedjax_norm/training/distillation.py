"""A student learns what a teacher says of public images (paper 003, sec. 6; Hinton et al. 2015)."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.ledger import Traffic
from fedjax_norm.errors import DivergedError
from fedjax_norm.evaluation import classification
from fedjax_norm.local_training import SgdConfig, optimizer
from fedjax_norm.norm import Mode
from fedjax_norm.options import option
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training.evaluator import make_test
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
  """How the student learns."""

  group = "distillation"

  lr: float = option(0.02, "The learning rate.", above=0)
  epochs: int = option(20, "Passes over the public images.", least=1)
  eval_every: int = option(1, "Epochs between two evaluations.", least=1)
  temperature: float = option(
    2.0,
    "T: all logits are divided by it, so that a higher one says more about the classes that the "
    "teacher thinks less likely.",
    above=0,
  )
  hard: float = option(
    0.0, "The weight, 0 to 1, of the public labels beside the teacher's outputs.", least=0, most=1
  )
  seed: int = option(
    0,
    "The seed of the student's weights, the order of the images and dropout.",
    least=0,
    most=2**32 - 1,
  )


class Public(NamedTuple):
  """The public images and what is known of them.

  Attributes:
    images: [N, H, W, C] as stored.
    taught: [N, C] float32, the teacher's outputs.
    labels: [N] int32; those of the student's batches under ``hard``.
  """

  images: Array
  taught: Array
  labels: Array


class Student(NamedTuple):
  """What is trained.

  Attributes:
    variables: its model.
    opt_state: of its SGD.
  """

  variables: Variables
  opt_state: PyTree


class _State(NamedTuple):
  student: Student
  epoch: np.int64
  seconds: np.float64


def distillation_loss(
  logits: Array, taught: Array, labels: Array, temperature: float, hard: float
) -> Array:
  """(1 - h) T^2 KL(softmax(t / T) || softmax(s / T)) - h log softmax(s)[label].

  T^2 keeps the size of the gradient when T changes (Hinton et al. 2015, sec. 2).

  Args:
    logits: s [B, C], the student's.
    taught: t [B, C], the teacher's.
    labels: [B] int32.
    temperature: T.
    hard: h.

  Returns:
    [B] float32.
  """
  says, told = (jax.nn.log_softmax(a.astype(jnp.float32) / temperature) for a in (logits, taught))
  soft = temperature**2 * (jnp.exp(told) * (told - says)).sum(-1)
  own = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
  return (1 - hard) * soft + hard * own


def make_epoch(
  task: Task, config: DistilConfig
) -> Callable[[Student, Public, Array, Key], tuple[Student, Array]]:
  """(student, public images, epoch, key) -> (student, mean loss) after a pass in random order.

  Auxiliary classifiers of a student learn the teacher's first guess.

  Args:
    task: its model and its transform of images are the student's.
    config: how it learns.
  """
  model, sgd, size = task.model, optimizer(config), config.batch_size

  def epoch(student: Student, public: Public, number: Array, key: Key) -> tuple[Student, Array]:
    count = len(public.images)
    steps = -(-count // size)
    order_key, dropout_key = jax.random.split(jax.random.fold_in(key, number))
    places = jnp.arange(steps * size)
    mask, order = places < count, jax.random.permutation(order_key, count)[places % count]

    def body(carry: tuple[Student, Array], step: tuple[Array, Array, Array]):
      (variables, opt_state), total = carry
      ids, real, index = step
      images, taught = task.eval_transform(public.images[ids]), public.taught[ids]
      key = jax.random.fold_in(dropout_key, index)
      mode = Mode(
        train=True,
        mask=real.astype(jnp.float32),
        step=number + index / steps,
        labels=taught.argmax(-1),
      )

      def loss(params: PyTree):
        logits, changed = model.apply(
          {**variables, "params": params},
          images,
          mode,
          mutable=["batch_stats", "losses"],
          rngs={"dropout": key},
        )
        each = distillation_loss(
          logits, taught, public.labels[ids], config.temperature, config.hard
        )
        own = jnp.where(real, each, 0).sum()
        more = sum(jax.tree.leaves(changed.get("losses", {})), jnp.float32(0))
        return (own + more) / real.sum(), (own, changed.get("batch_stats", {}))

      grads, (own, stats) = jax.grad(loss, has_aux=True)(variables["params"])
      updates, opt_state = sgd.update(grads, opt_state, variables["params"])
      params = optax.apply_updates(variables["params"], optax.tree.scale(-config.lr, updates))
      after = {"params": params, **({"batch_stats": stats} if stats else {})}
      return (Student(after, opt_state), total + own), None

    batches = (order.reshape(steps, size), mask.reshape(steps, size), jnp.arange(steps))
    (student, total), _ = jax.lax.scan(body, (student, jnp.float32(0)), batches)
    return student, total / count

  return jax.jit(epoch)


def distil(
  task: Task,
  public: Public,
  config: DistilConfig,
  traffic: Traffic,
  folder: RunFolder,
  *,
  eval_batch_size: int = 256,
  show_progress: bool = False,
) -> tuple[Variables, list[dict[str, Any]]]:
  """Trains a student, or goes on from the folder's checkpoint, with the same bits.

  Args:
    task: the student's model, its transform of images, and its test images.
    public: what it learns from.
    config: how.
    traffic: what the teacher's outputs took, which goes with every row.
    folder: where rows and checkpoints go.
    eval_batch_size: test examples a batch.
    show_progress: whether to draw a progress bar.

  Returns:
    (the student's variables, the rows of its metrics).

  Raises:
    DivergedError: a loss is not finite.
  """
  mapping = client_mapping.create("scan", num_clients=1)
  test = make_test(task, mapping)
  held = classification.stack_batches(task.source.test, eval_batch_size)
  epoch = make_epoch(task, config)
  variables = jax.tree.map(jnp.asarray, initial_variables(task, config.seed))
  student = Student(variables, optimizer(config).init(variables["params"]))
  state = _State(student, np.int64(0), np.float64(0))
  public = Public(*map(jnp.asarray, public))
  key = stream(jax.random.key(config.seed), Stream.DISTIL)
  with (
    Checkpoints(folder.path / "checkpoints") as checkpoints,
    Progress(config.epochs, enabled=show_progress) as bar,
  ):
    if folder.resumed:
      state, _ = resume(folder, checkpoints, state)
    student, done, seconds = state.student, int(state.epoch), float(state.seconds)
    while done < config.epochs:
      started = time.perf_counter()
      until = min(config.epochs, done + config.eval_every - done % config.eval_every)
      for index in range(done, until):
        student, loss = epoch(student, public, jnp.int32(index), key)
      columns = test.summarize(test.evaluate_model(student.variables, held))
      if not np.isfinite([loss, columns["loss"]]).all():
        raise DivergedError(
          f"the student's loss became infinite or not a number between epochs {done} and {until}; "
          "lower the learning rate or clip gradients."
        )
      elapsed = time.perf_counter() - started
      speed = len(public.images) * (until - done) / elapsed
      done, seconds = until, seconds + elapsed
      row = {
        "round": done,
        "train_loss": float(loss),
        **columns,
        "rate": config.lr,
        **traffic._asdict(),
        "seconds": seconds,
      }
      with uninterrupted():
        # The row first: a kill in between leaves one row too many, which resuming cuts off.
        folder.append(row)
        checkpoints.save(done, _State(student, np.int64(done), np.float64(seconds)))
      bar.update(done, float(loss), f"top-1 {columns['top1']:.2%}", speed)
  return jax.tree.map(np.asarray, student.variables), folder.rows()
