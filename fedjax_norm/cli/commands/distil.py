"""Distils a cut model into a student model: ``python -m experiments.distil --teacher=runs/NAME``.

The teacher is the model of a finished run of ``experiments.split``. Public images, the training
images of ``--data``, go through the client's part of the teacher, and their activations through the
server's part; the student learns to predict these outputs (paper 003, sec. 6). Student and teacher
are tested on the test images of the teacher's run.
"""

import dataclasses

import numpy as np

from fedjax_norm import client_mapping, host_memory, models, options
from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config, all_but
from fedjax_norm.cli.finished_run import SplitRun, check_images, load_split
from fedjax_norm.data.examples import Source, value_range
from fedjax_norm.data.transforms.preprocess import fit, transforms_of
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.batches import stack_batches
from fedjax_norm.norm import NORMS
from fedjax_norm.options import option
from fedjax_norm.plots import base, curves
from fedjax_norm.split.by_messages.inference import remote_outputs
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.split.plan import ALICE, BOB
from fedjax_norm.training.distillation import DistilConfig, PublicData, distil
from fedjax_norm.training.evaluator import make_summarize, make_test
from fedjax_norm.training.finished_run import save_serving
from fedjax_norm.training.storage.csv_rows import Row, write_table
from fedjax_norm.training.storage.final_model import save_model
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table
from fedjax_norm.typing import Variables

_SHOWN = (
  "data", "data_dir", "image_size", "first_classes", "stem", "norm", "groups", "group_size",
  "eval_batch_size", "workdir", "resume", "wait_for_workdir", "progress", "compilation_cache",
  *(one.name for one in options.of(DistilConfig)),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DistilFlags(DistilConfig, Config):
  """Options of ``experiments.distil``."""

  group = "distillation"
  algorithm = "distil"
  hidden = all_but(*_SHOWN)

  teacher: str | None = option(
    None, "The folder of a finished run of experiments.split, the teacher; it must be given."
  )
  student: str = option("tiny", "The model of the student.", choices=tuple(models.MODELS))

  def check(self) -> None:
    """Raises UserError for sync_bn, fixbn and similar norms, which equal bn on one machine."""
    if NORMS[self.norm].freezes_statistics or NORMS[self.norm].across_clients:
      raise UserError(
        f"--norm={self.norm} equals bn for a student, which trains on one machine; give --norm=bn."
      )


def main(config: DistilFlags) -> None:
  """Computes the teacher's outputs, trains the student, and tests student and teacher."""
  teacher = config.teacher
  if teacher is None:
    raise UserError(
      "there is no teacher; give --teacher, the folder of a run of experiments.split."
    )
  config = dataclasses.replace(config, model=config.student, rounds=config.epochs)
  run = load_split(teacher)
  if config.data == run.flags.data and config.data_dir == run.flags.data_dir:
    raise UserError(
      f"{config.data} is the teacher's training data, which is not public; give other --data."
    )
  source = train.load(config)
  check_images(run, source.train.images.shape[1:], source.name)
  host_memory.check_batch(config.batch_size, source.train.images.shape[1:])
  if config.hard and source.class_names != run.task.source.class_names:
    raise UserError(
      "--hard cannot use the labels of --data, which has other classes than the teacher; drop "
      "--hard or give other --data."
    )
  task = make_student(config, run, source)
  path = app.new_folder(config)
  with RunFolder.open(path, config.saved(), config.resume, config.wait_for_workdir) as folder:
    log, images = MessageLog(), source.train.images
    logits = remote_outputs(run.cut_model, images, config.batch_size, log.observe, ALICE, BOB)
    public = PublicData(images, logits, source.train.labels.astype(np.int32))
    variables, rows = distil(
      task,
      public,
      config,
      log.traffic(ALICE),
      folder,
      eval_batch_size=config.eval_batch_size,
      show_progress=config.progress,
    )
    save_serving(folder.path, config, task)
    finish(config, run, folder, log, rows, variables)


def make_student(config: DistilFlags, run: SplitRun, source: Source) -> Task:
  """Returns a task of the student's model, public training data and the teacher's test images."""
  task, norm = run.task, config.make_norm(config.rounds)
  model = models.create(config.model, norm, task.num_classes, task.image_shape, config.stem)
  if models.entry(config.model).segments:
    raise UserError(f"{config.model!r} classifies pixels, not images; choose another --student.")
  images = source.train.images
  statistics = fit(config, images)
  data = Source(source.name, source.train, task.source.test, task.source.class_names)
  return task._replace(
    model=model,
    source=data,
    eval_transform=transforms_of(config, statistics)[-1],
    objective="classification",
    value_range=value_range(images, np.arange(len(images))),
    statistics=statistics,
  )


def finish(
  config: DistilFlags,
  run: SplitRun,
  folder: RunFolder,
  log: MessageLog,
  rows: list[Row],
  variables: Variables,
) -> None:
  """Writes the student's model to the run's folder, and the test results of student and teacher."""
  task, last = run.task, rows[-1]
  test = make_test(task, client_mapping.create("scan", num_clients=1))
  summarize = make_summarize(task, task.source.test)
  test_batches = stack_batches(task.source.test, config.eval_batch_size)
  teacher = summarize(test.evaluate_model(run.variables, test_batches))
  save_model(folder.path, variables)
  write_table(folder.path / "messages.csv", log.rows())
  names = ("loss", "top1", "top5", "bytes_up", "bytes_down", "seconds")
  result = {
    "rounds": last["round"],
    **{name: last[name] for name in names},
    **{f"teacher_{name}": teacher[name] for name in ("loss", "top1", "top5")},
  }
  folder.write_summary(result)
  title = f"{config.data}, {config.model} taught by {run.flags.model_name}"
  base.save(curves.learning_curves_figure(rows, title), folder.path / "learning_curves.png")
  pairs = [
    ("student", f"{config.model}, {config.norm}: top-1 {result['top1']:.2%}"),
    ("teacher", f"{run.flags.model_name}, {run.flags.norm}: top-1 {result['teacher_top1']:.2%}"),
    ("test loss", f"student {result['loss']:.4f}, teacher {result['teacher_loss']:.4f}"),
    ("epochs", f"{last['round']:,}"),
    ("sent up, down", f"{human_bytes(last['bytes_up'])}, {human_bytes(last['bytes_down'])}"),
    ("time", human_seconds(last["seconds"])),
    ("folder", str(folder.path)),
  ]
  print(summary_table("result", pairs), flush=True)


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main, DistilFlags, __doc__)
