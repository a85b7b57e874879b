"""Compares a study's ranking with runs that are tuned one by one: three hospitals, shared rates.

``python -m benchmarks.separate_tuning FOLDER`` writes images of three hospitals with four classes
(scikit-learn's digits with noise, each hospital with other shares of the classes) into
FOLDER/images. Then it trains each norm at each of six learning rates with five seeds, at full
length and with a loop of its own. The table has the mean test accuracy at the round with the best
validation accuracy. A column with one rate for all norms ranks them otherwise than the last column,
in which each norm has its best rate by validation. It takes about 15 minutes. The study to compare
with:

  python -m experiments.study --data=folder:FOLDER/images --norms=bn,gn,fixbn --algorithms=fedavg
    --local_steps=5 --steps=200
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from fedjax_norm.cli import train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.cli.text_tables import as_markdown
from fedjax_norm.errors import DivergedError
from fedjax_norm.options import make
from fedjax_norm.training import loop
from fedjax_norm.training.reuse import Programs
from fedjax_norm.training.run import initial_variables

_NORMS, _RATES, _SEEDS = ("bn", "gn", "fixbn"), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), range(10, 15)
_ROUNDS, _LOCAL_STEPS = 40, 5
_CLASSES = ("benign", "malignant", "normal", "unclear")
# Hospital -> relative numbers of images of each class.
_SHARES = {
  "Berlin": (0.80, 0.10, 0.05, 0.05),
  "Lyon": (0.05, 0.80, 0.10, 0.05),
  "Porto": (0.15, 0.10, 0.85, 0.90),
}


def write_images(folder: Path) -> None:
  """Writes the images as ``SPLIT/HOSPITAL/CLASS/NUMBER.png``; a quarter of them is for the test."""
  rng, digits = np.random.default_rng(0), load_digits()
  for number, name in enumerate(_CLASSES):
    ids = rng.permutation(np.flatnonzero(digits.target == number))
    weights = np.array([shares[number] for shares in _SHARES.values()])
    owners = rng.choice(len(_SHARES), len(ids), p=weights / weights.sum())
    for index, (one, owner) in enumerate(zip(ids, owners, strict=True)):
      split = "test" if rng.random() < 0.25 else "train"
      noisy = digits.images[one] * 15 + rng.normal(0, 25, (8, 8)) + 20 * owner
      image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
      path = folder / split / list(_SHARES)[owner] / name
      path.mkdir(parents=True, exist_ok=True)
      image.resize((16, 16), Image.Resampling.BILINEAR).save(path / f"{index}.png")


def accuracies(data: str, norm: str) -> np.ndarray:
  """Returns (validation, test) accuracies [2, rates, seeds] of a norm; 0 if training diverged."""
  programs, result = Programs(train.make), np.zeros((2, len(_RATES), len(_SEEDS)))
  lengths = {"rounds": _ROUNDS, "eval_every": _ROUNDS // 10, "local_steps": _LOCAL_STEPS}
  kind = ANY_METHOD.config("fedavg")
  for i, rate in enumerate(_RATES):
    for j, seed in enumerate(_SEEDS):
      config = make(
        kind, norm=norm, lr=rate, seed=seed, data=data, validation_share=0.15, **lengths
      )
      config, task = train.prepare(config, train.load(config))
      program, variables = programs.of(task, config), initial_variables(task, seed)
      try:
        rows = loop.train(program, config, task.data, variables).rows
        best = max(rows, key=lambda row: row["val_top1"])
        result[:, i, j] = best["val_top1"], best["top1"]
      except DivergedError:
        pass
  return result


def main(folder: Path) -> None:
  """Prints the table."""
  images = folder / "images"
  if not images.exists():
    write_images(images)
  rows = []
  for norm in _NORMS:
    validation, test = accuracies(f"folder:{images}", norm)
    tuned = int(validation.mean(1).argmax())
    cells = [f"{100 * mean:.1f}" for mean in test.mean(1)]
    chosen = test[tuned]
    spread = f"{100 * chosen.mean():.1f} ± {100 * chosen.std(ddof=1):.1f}"
    rows.append([norm, *cells, f"{spread} (lr {_RATES[tuned]:g})"])
    print(f"{norm} done", file=sys.stderr, flush=True)
  print(as_markdown(["norm", *map(str, _RATES), "tuned"], rows))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
