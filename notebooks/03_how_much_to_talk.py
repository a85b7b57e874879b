# %% [markdown]
# # How much must clients talk?
#
# Sending every update costs the most bytes and loses nothing. Paper 004 (Hsieh et al., *The Non-IID Data Quagmire of Decentralized Machine Learning*) compares three ways to send less, and finds that how much can be saved depends on how differently the clients' data is distributed. This notebook repeats that on a small scale:
#
# 1. accuracy against bytes: synchronous SGD, Gaia, deep gradient compression (DGC), and federated averaging;
# 2. the same on IID data;
# 3. SkewScout, which chooses the communication while it trains.
#
# It runs in less than three minutes on two CPU cores. The environment variable `FEDJAX_NORM_REDUCED=1` selects a short version.

# %%
import os
import tempfile

# Runs that differ in numbers alone, such as a threshold, share their compiled programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp())

import fedjax_norm as fn

CLIENTS = 5
# Before anything uses JAX: on a CPU, clients train in parallel on single-threaded devices.
fn.use_host_devices(min(os.cpu_count() or 1, CLIENTS))

FULL = os.environ.get("FEDJAX_NORM_REDUCED") != "1"
ROUNDS, EVAL_EVERY = (240, 20) if FULL else (12, 4)

# %%
# %matplotlib inline

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.plots import base
from fedjax_norm.plots.bars import bars_figure
from fedjax_norm.plots.curves import compare_figure
from fedjax_norm.plots.study import Point, pareto_figure
from fedjax_norm.training.terminal.tables import columns_table, human_bytes, human_seconds

# %% [markdown]
# ## 1. Accuracy against bytes
#
# Five clients have two digits each. They train a small network with group normalization, because batch normalization fails on such clients whatever is sent ([notebook 01](01_norms_as_axes.ipynb)). A round is one mini-batch step of all clients:
#
# - **BSP**: synchronous SGD. Every client sends every update.
# - **Gaia**: a client sends an accumulated update once it exceeds a share $T_0$ of the weight.
# - **DGC**: a client sends the largest elements of its accumulated gradient; a share $s$ stays behind.
# - **FedAvg**: clients send their models once every few steps.
#
# BSP, Gaia and DGC *sum* the clients' updates, and FedAvg *averages* models. At five clients a sum is five times as large, so that the rates differ by this factor. (A study tunes the rate of each contender; here we choose them by hand.)

# %%
source = fn.load_source("digits")
labels = source.train.labels
PARTITIONS = {
  "two classes each": fn.make_partition("classes", labels, CLIENTS, 0, classes_per_client=2),
  "iid": fn.make_partition("iid", labels, CLIENTS, 0),
}
CONTENDERS = {
  "bsp": ("bsp", {"lr": 0.01}),
  "gaia, 2%": ("gaia", {"lr": 0.01, "threshold": 0.02}),
  "gaia, 20%": ("gaia", {"lr": 0.01, "threshold": 0.2}),
  "dgc, 90%": ("dgc", {"lr": 0.01, "sparsity": 0.9}),
  "fedavg, 5": ("periodic", {"lr": 0.05, "local_steps": 5}),
  "fedavg, 20": ("periodic", {"lr": 0.05, "local_steps": 20}),
}
shown = list(CONTENDERS) if FULL else ["bsp", "gaia, 20%"]


def train(partition, method, **options):
  """Trains a method on a partition, with the simulated clock of data centres across the world."""
  task = fn.make_task(source, PARTITIONS[partition], fn.make_norm("gn"))
  return fn.run(
    method, task, **{"rounds": ROUNDS, "eval_every": EVAL_EVERY, "network": "wan", **options}
  )


def sent(outcome):
  """Bytes that all clients have sent and received in the whole run."""
  return outcome.rows[-1]["bytes_up"] + outcome.rows[-1]["bytes_down"]


def score(outcome):
  """Mean test accuracy of the last three evaluations."""
  return float(np.mean([row["top1"] for row in outcome.rows[-3:]]))


skewed = {
  name: train("two classes each", CONTENDERS[name][0], **CONTENDERS[name][1]) for name in shown
}
points = [
  Point(
    name,
    sent(one),
    score(one),
    float("nan"),  # one seed has no deviation
    not any(sent(o) <= sent(one) and score(o) > score(one) for o in skewed.values()),
  )
  for name, one in skewed.items()
]
title = f"Digits, {CLIENTS} clients with two classes each, {ROUNDS} steps"
display(pareto_figure(points, title, MEASURES["top1"], len(points)))

# %% [markdown]
# Up is better, left is cheaper. A contender on the Pareto front (bold) is beaten in accuracy only by those that send more. The curves show how they got there:

# %%
display(
  compare_figure(
    {name: outcome.rows for name, outcome in skewed.items()}, "Two classes each", against=("round",)
  )
)

# %% [markdown]
# ## 2. The same on IID data

# %%
iid = {name: train("iid", CONTENDERS[name][0], **CONTENDERS[name][1]) for name in shown}
percents = {
  "iid": [100 * score(outcome) for outcome in iid.values()],
  "two classes each": [100 * score(outcome) for outcome in skewed.values()],
}
display(bars_figure(shown, percents, "What skew costs each contender", "top-1 test accuracy, %"))
print(
  columns_table(
    ["contender", "sent", "time on a WAN", "two classes each", "iid", "lost to skew"],
    [
      [
        name,
        human_bytes(sent(skewed[name])),
        human_seconds(skewed[name].rows[-1]["simulated_seconds"]),
        f"{score(skewed[name]):.1%}",
        f"{score(iid[name]):.1%}",
        f"{score(iid[name]) - score(skewed[name]):.1%}",
      ]
      for name in shown
    ],
  )
)

# %% [markdown]
# This is the paper's finding: with IID data the cheap contenders are as good as BSP, and the two that send least lose most to skew. Not in proportion, though: DGC sends more than FedAvg with five steps, and loses more. (This is one seed, with rates chosen by hand.) Time is simulated from the bytes and latencies of each link: what waits least for others is fastest, and that is FedAvg, which exchanges once in several steps. (`network="lan"` and `"mobile"` are the other two.)
#
# So the saving that one federation can afford is too much for another, and nobody can say in advance which it is.
#
# ## 3. SkewScout: measure the skew, then choose
#
# SkewScout (paper 004, sec. 7) sends each client's model to another client now and then, and tests it on that client's training data. If the model is much worse there, the clients' models have drifted apart, and SkewScout lowers the threshold, so that more is sent; else it raises it.

# %%
GRID = (0.02, 0.05, 0.1, 0.2, 0.4)
SCOUT = {
  "skewscout": "hill",
  "scout_every": 10 if FULL else 4,
  "scout_grid": GRID,
  "scout_start": 0.1,
}
scouted = {name: train(name, "gaia", lr=0.01, **SCOUT) for name in PARTITIONS}

figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for i, (name, outcome) in enumerate(scouted.items()):
  rounds = [row["round"] for row in outcome.rows]
  panels[0].plot(rounds, [row["theta"] for row in outcome.rows], label=name, **base.style(i))
  panels[1].plot(
    rounds, [row["accuracy_loss"] for row in outcome.rows], label=name, **base.style(i)
  )
panels[0].set_title("threshold that SkewScout chose", loc="left")
panels[1].set_title("accuracy lost at another client", loc="left")
for axes in panels:
  axes.set_xlabel("step")
  base.tidy(axes)
panels[0].legend(frameon=False)
plt.show()

print(
  columns_table(
    ["partition", "bsp", "bsp sends", "skewscout", "skewscout sends", "saving"],
    [
      [
        name,
        f"{score(bsp):.1%}",
        human_bytes(sent(bsp)),
        f"{score(scouted[name]):.1%}",
        human_bytes(sent(scouted[name])),
        f"{sent(bsp) / sent(scouted[name]):.1f}x",
      ]
      for name, bsp in (("two classes each", skewed["bsp"]), ("iid", iid["bsp"]))
    ],
  )
)

# %% [markdown]
# The models that travel are part of what SkewScout sends. In so short a run they weigh heavily; in a training of many epochs SkewScout tests every few hundred steps.
#
# ## Your federation
#
# To choose for *your* federation, let a study do the above with tuned rates and several seeds:
#
# ```
# python -m experiments.study --norms=gn --algorithms=fedavg,gaia:threshold=0.02,dgc:sparsity=0.97 --local_steps=1,10 --network=wan
# ```
#
# Its report has the picture of section 1 with deviations. The page *Choosing how much to communicate* of the documentation lists all algorithms and says how bytes are counted.
