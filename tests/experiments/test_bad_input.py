"""Wrong flags, files and combinations: one sentence, exit code 1 or 2, no traceback."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.binaries import PYTHONPATH

from fedjax_norm.cli import app

# (flags, regular expression that the sentence must match)
TABLE = [
  # flags that do not parse
  ("--rounds=abc", "rounds"),
  ("--bogus=1", "bogus"),
  ("--norm=batchnorm", "sync_bn"),
  ("--model=vgg", "resnet20"),
  ("--partition=random", "dirichlet"),
  ("--backend=tpu", "shard_map"),
  ("--data_on=disk", "host"),
  ("extra", "--name=value"),
  # numbers out of range
  ("--rounds=0", "rounds"),
  ("--rounds=-3", "rounds"),
  ("--rounds=1000000000000", "rounds.*2147483647 in plain digits"),
  ("--rounds=1_0", "plain digits"),
  ("--batch_size=\u00b2", "plain digits"),
  ("--lr=1e308", r"3\.4e\+38 in plain digits"),
  ("--local_steps=1073741824", "can be counted"),
  ("--image_size=1000000", r"images to 1000000x1000000 needs 256 TB and this machine has"),
  ("--eval_every=0", "eval_every"),
  ("--clients=0", "clients"),
  ("--clients=-1", "clients"),
  ("--cohort=0", "cohort"),
  ("--cohort=5", "lower --cohort"),
  ("--batch_size=0", "batch_size"),
  ("--lr=0", "--lr is 0; it must be above 0"),
  ("--lr=-0.1", "--lr is -0.1; it must be above 0"),
  ("--lr=nan", "finite"),
  ("--lr=inf", "finite"),
  ("--momentum=1", "momentum"),
  ("--momentum=-0.5", "momentum"),
  ("--weight_decay=-1", "weight_decay"),
  ("--clip_norm=-1", "clip_norm"),
  ("--prox=-1", "prox"),
  ("--local_steps=0", "local_steps"),
  ("--local_epochs=-1", "local_epochs"),
  ("--server_lr=0", "server_lr"),
  ("--seed=-1", "seed"),
  ("--seeds=0", "seeds"),
  ("--eval_batch_size=0", "eval_batch_size"),
  ("--evaluate_clients=9", "evaluate_clients"),
  ("--host_devices=0", "host_devices"),
  ("--chunk=-1", "chunk"),
  ("--lr_warmup_rounds=-1", "--lr_warmup_rounds is -1; it must be at least 0"),
  ("--lr_warmup_rounds=9", "lr_warmup_rounds"),
  ("--norm_decay=1.5", "decay"),
  ("--norm_epsilon=-1", "epsilon"),
  ("--image_size=0", "image_size"),
  # flags that would do nothing
  ("--alpha=0.5", "alpha"),
  ("--ratio=0.1", "ratio"),
  ("--feature_shift=noise", "feature"),
  ("--feature_scale=2", "feature"),
  ("--norm=ln --groups=2", "groups"),
  ("--norm=bn --group_size=2", "group"),
  ("--norm=gn --mean_only_bn", "mean_only_bn"),
  ("--norm=gn --norm_decay=0.5", "norm_decay"),
  ("--norm=none --norm_epsilon=1e-3", "norm_epsilon"),
  ("--norm=bn --brn_r_max=3", "brn"),
  ("--norm=bn --freeze_round=2", "fixbn"),
  ("--norm=gn --freeze_affine", "fixbn"),
  ("--norm=gn --batch_stats=moments", "running statistics"),
  ("--norm=none --fedbn", "fedbn needs"),
  ("--momentum=0 --nesterov", "momentum"),
  ("--momentum=0 --client_momentum=local", "momentum"),
  ("--server_momentum=0.5", "server_optimizer=momentum"),
  ("--lr_factor=0.5", "lr_schedule"),
  ("--lr_power=2", "polynomial"),
  ("--lr_boundaries=2", "step"),
  ("--norm=fixbn --freeze_tolerance=0.1", "auto"),
  ("--data_dir=somewhere", "data_dir"),
  ("--stem=imagenet", "stem"),
  # flags that exclude each other
  ("--norm=gn --groups=2 --group_size=2", "not both"),
  ("--local_steps=1 --local_epochs=1", "exclude"),
  ("--fedbn --batch_stats=mean", "fedbn"),
  ("--fedbn --client_momentum=global", "momentum"),
  ("--norm=fixbn --batch_stats=local", "FixBN"),
  ("--norm=fixbn --fedbn", "FixBN"),
  ("--norm=brn --batch_stats=recalibrate", "recalibrate"),
  ("--norm=sync_bn --backend=scan --host_devices=2", "one device"),
  ("--norm=sync_bn --backend=shard_map --chunk=3", "lock-step"),
  ("--norm=sync_bn --chunk=2", "lock-step"),
  ("--seed=99999999999999999999", "seed"),
  ("--local_steps=1 --prox=1", "prox"),
  ("--batch_stats=recalibrate --norm_decay=0.5", "norm_decay"),
  ("--norm=fixbn --rounds=1", "at least 2 --rounds"),
  ("--augment=rotate", "crop_flip"),
  # what the model or the data cannot do
  ("--norm=gn --groups=5", "do not divide"),
  ("--norm=gn --group_size=7", "does not divide"),
  ("--norm=gn --groups=0", "at least 1"),
  ("--norm=fixup", "Fixup"),
  ("--model=lenet", "pixels"),
  ("--model=cnn --image_size=5", "pixels"),
  ("--clients=100", "100"),
  ("--classes_per_client=9", "9"),
  ("--classes_per_client=0", "0"),
  ("--clients=3 --classes_per_client=1", "class"),
  ("--partition=dirichlet --alpha=0", "alpha"),
  ("--partition=dirichlet --alpha=0.5 --min_size=60", "min_size|examples"),
  ("--partition=ratio --ratio=1.5", "ratio"),
  ("--partition=skew --fraction=2", "fraction"),
  ("--partition=dominant --dominant_share=0.1", "dominant_share|share"),
  ("--partition=natural", "natural"),
  ("--partition=feature --feature_scale=-1", "feature|scale"),
  ("--data=imagenet9000 --data_dir=.", "imagenet9000"),
  ("--data=cifar10", "data_dir"),
  ("--data=synthetic:classes=1", "classes"),
  ("--data=synthetic:colour=red", "colour"),
  ("--data=npz:missing.npz", "missing.npz"),
  ("--data=npy:missing", "missing"),
  ("--data=npy:. --image_size=8", "cannot be resized"),
  ("--data=folder:missing", "missing"),
  # schedules and phases
  ("--lr_schedule=step", "boundaries"),
  ("--lr_schedule=step --lr_boundaries=x", "lr_boundaries"),
  ("--lr_schedule=step --lr_boundaries=3,2", "rising"),
  ("--lr_schedule=step --lr_boundaries=9", "never"),
  ("--norm=fixbn --freeze_round=9", "from 1 to 3"),
  ("--norm=fixbn --freeze_round=soon", "freeze_round"),
  ("--norm=fixbn --freeze_lr_factor=0", "--freeze_lr_factor is 0; it must be above 0"),
  ("--norm=fixbn --freeze_clip_norm=-1", "clip_norm"),
  ("--norm=brn --brn_r_max=0.5", "r_max"),
  ("--norm=brn --brn_ramp=0.1,0.2", "three"),
  ("--norm=brn --brn_ramp=0.5,0.2,0.3", "start"),
]


def check_sentence(code: int, err: str, mentions: str) -> None:
  assert code in (1, 2)
  assert err.startswith("error: ")
  assert err.count("\n") == 1
  assert "Traceback" not in err
  assert re.search(mentions, err), err


@pytest.mark.parametrize(("arguments", "mentions"), TABLE, ids=[row[0] for row in TABLE])
def test_flags(fedavg_run, arguments, mentions, tmp_path):
  result = fedavg_run(*arguments.split())
  check_sentence(result.code, result.err, mentions)
  # An error before training leaves no folder behind.
  assert not (tmp_path / "runs").exists()


def test_files(fedavg_run, tmp_path):
  """Damaged data, and folders in which no run can be written."""
  images, labels = np.zeros((8, 6, 6, 1), np.float32), np.arange(8) % 2
  np.savez("short.npz", x_train=images, y_train=labels[:7], x_test=images, y_test=labels)
  np.savez("lacking.npz", x_train=images, y_train=labels)
  np.savez("one.npz", x_train=images, y_train=0 * labels, x_test=images, y_test=0 * labels)
  (tmp_path / "text.npz").write_text("no archive")
  (tmp_path / "file").write_text("a file")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "note.txt").write_text("somebody's")
  (tmp_path / "images" / "cat").mkdir(parents=True)
  (tmp_path / "images" / "cat" / "1.png").write_bytes(b"no image")
  for arguments, mentions in [
    ("--data=npz:short.npz", "7|8"),
    ("--data=npz:lacking.npz", "x_test"),
    ("--data=npz:text.npz", "text.npz"),
    ("--data=npz:one.npz --clients=2", "class"),
    ("--data=folder:images", "1.png|image"),
    ("--data=mnist --data_dir=other", "other|mnist"),
    ("--workdir=file", "file"),
    ("--workdir=file/below", "file"),
    ("--workdir=other", "run folder"),
  ]:
    result = fedavg_run(*arguments.split())
    check_sentence(result.code, result.err, mentions)


def test_divergence_is_one_sentence(fedavg_run):
  """A learning rate that is too large ends with exit code 1."""
  result = fedavg_run("--norm=none", "--lr=1e30", "--workdir=run")
  check_sentence(result.code, result.err, "not a number")
  assert result.code == 1


def test_another_configuration_is_refused_by_name(fedavg_run):
  assert fedavg_run("--workdir=run").code == 0
  result = fedavg_run("--workdir=run", "--lr=0.01", "--norm=gn")
  check_sentence(result.code, result.err, "lr.*norm|norm.*lr")
  result = fedavg_run("--workdir=run", "--noresume")
  check_sentence(result.code, result.err, "already holds a run")


def test_an_unknown_flag_is_one_sentence(capsys):
  with pytest.raises(SystemExit) as end:
    app.parse_flags(["fedavg", "--nothing=1"])
  check_sentence(end.value.code, capsys.readouterr().err, "nothing")


def process(folder, binary, *arguments):
  """Runs a binary as a command does."""
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{binary}", *arguments],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": PYTHONPATH},
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command_itself_prints_no_traceback(tmp_path):
  """As above in a real process, after JAX has started."""
  done = process(tmp_path, "fedavg", "--clients=2000")
  check_sentence(done.returncode, done.stderr, "2000")


def test_jax_prints_nothing_about_missing_backends(tmp_path):
  done = process(tmp_path, "stages", "--image_size=6")
  assert (done.returncode, done.stderr) == (0, "")
