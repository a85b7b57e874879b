# %% [markdown]
# # What becomes of batch normalization's statistics?
#
# A client trains with batch normalization (BN) and sends its model to the server. Besides its weights, the model has *running statistics*: for each channel a moving average of the means and variances of the client's batches. Does the server average them? Do they stay at the client? Or should they not exist? This notebook trains the same federation under each policy:
#
# 1. clients with different classes: accuracy, the worst client, bytes;
# 2. where the policies differ: the statistics themselves;
# 3. clients whose images look different.
#
# It runs in less than three minutes on two CPU cores. The environment variable `FEDJAX_NORM_REDUCED=1` selects a short version.

# %%
import os

import fedjax_norm as fn

CLIENTS = 10
# Before anything uses JAX: on a CPU, clients train in parallel on single-threaded devices.
fn.use_host_devices(min(os.cpu_count() or 1, CLIENTS))

FULL = os.environ.get("FEDJAX_NORM_REDUCED") != "1"
ROUNDS, EVAL_EVERY = (60, 10) if FULL else (4, 2)

# %%
# %matplotlib inline

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.ticker import PercentFormatter

from fedjax_norm.plots import base
from fedjax_norm.plots.clients import partition_figure
from fedjax_norm.plots.curves import compare_figure
from fedjax_norm.training.terminal.tables import columns_table

# %% [markdown]
# ## 1. Clients with different classes
#
# Ten clients share 1,437 images of handwritten digits, with two classes each.

# %%
source = fn.load_source("digits")
labels = source.train.labels
two_classes = fn.make_partition("classes", labels, CLIENTS, 0, classes_per_client=2)
counts = fn.data.partitions.registry.counts(two_classes, labels, len(source.class_names))
display(partition_figure(counts, source.class_names, "Training images: two classes each"))

# %% [markdown]
# Seven policies, each with FedAvg, five local steps per round, and the same learning rate. (After its freeze, FixBN trains without the stabilizing effect of batches, hence the lower rate and the clipping from there on.)

# %%
POLICIES = {
  "mean": {"norm": "bn", "batch_stats": "mean"},  # the server averages means and variances
  "moments": {"norm": "bn", "batch_stats": "moments"},  # and adds the variance between clients
  "recalibrate": {"norm": "bn", "batch_stats": "recalibrate"},  # one more pass over all data
  "local": {"norm": "bn", "batch_stats": "local"},  # SiloBN: statistics stay at the client
  "fedbn": {"norm": "bn", "fedbn": True},  # FedBN: scales and biases stay, too
  "fixbn": {"norm": "fixbn", "freeze_lr_factor": 0.2, "freeze_clip_norm": 1.0},
  "gn": {"norm": "gn"},  # group normalization: there are no statistics
}


def train(policy, partition, preprocess=None, **options):
  """Trains with a policy: the outcome, whose rows also have the mean and worst client."""
  settings = {"local_steps": 5, "rounds": ROUNDS, "eval_every": EVAL_EVERY, **POLICIES[policy]}
  task = fn.make_task(source, partition, fn.make_norm(settings.pop("norm")), preprocess=preprocess)
  return fn.run("fedavg", task, evaluate_clients=CLIENTS, **{**settings, **options})


# The reduced setting trains some of the policies only.
shown = list(POLICIES) if FULL else ["mean", "moments", "local"]
outcomes = {policy: train(policy, two_classes) for policy in shown}

# %%
title = f"Digits, {CLIENTS} clients with two classes each"
display(compare_figure({name: outcome.rows for name, outcome in outcomes.items()}, title))


def client_rows(outcomes):
  """What a table says about each run: accuracies, and bytes of all clients."""
  return [
    [
      name,
      f"{outcome.rows[-1]['top1']:.1%}",
      f"{outcome.rows[-1]['clients_top1']:.1%}",
      f"{outcome.rows[-1]['clients_top1_min']:.1%}",
      f"{(outcome.rows[-1]['bytes_up'] + outcome.rows[-1]['bytes_down']) / 1e6:.1f} MB",
    ]
    for name, outcome in outcomes.items()
  ]


print(
  columns_table(
    ["policy", "all classes", "own classes", "worst client", "sent"], client_rows(outcomes)
  )
)

# %% [markdown]
# *All classes* is the accuracy on the whole test set. With `local` and `fedbn` there is no global model, and it is the mean over the clients' models. *Own classes* is the mean over clients of the accuracy on the classes that a client has, and *worst client* is the lowest of them.

# %%
figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
for i, outcome in enumerate(outcomes.values()):
  values = np.sort(list(outcome.client_accuracies.values()))
  axes.scatter(
    i + np.linspace(-0.25, 0.25, len(values)),
    values,
    s=22,
    color=base.COLOURS[i % len(base.COLOURS)],
  )
axes.set_xticks(range(len(outcomes)), outcomes)
axes.yaxis.set_major_formatter(PercentFormatter(1.0))
axes.set_title("Accuracy on the client's own classes: a dot is a client", loc="left")
base.tidy(axes)
plt.show()

# %% [markdown]
# What to look for, in the full setting (`docs/batch_statistics.md` has three seeds):
#
# - `mean`, `moments` and `recalibrate` differ by less than the seeds do, and all clients have a useful model.
# - `local` loses some clients: their statistics know two classes, but the weights come from all clients.
# - `fedbn` has the best models on the client's own classes, and by far the worst on all classes. Use it if nobody needs *one* model.
# - `fixbn` and `gn` are equal to `mean` or about a point behind, and need no choice of a policy. FixBN needs a lower rate after its freeze.
# - The bytes hardly differ: statistics are small. The question is accuracy, and who needs the model.
#
# ## 2. The statistics themselves
#
# `mean`, `moments`, `recalibrate` and `local` trained the *same weights*: in training, BN normalizes by the batch, and the running statistics are only kept for later. So the differences among these four come from the statistics alone.

# %%
weights = [
  np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(outcomes[name].variables["params"])])
  for name in ("mean", "moments", "local")
]
distance = max(np.abs(weights[0] - other).max() for other in weights[1:])
print("largest difference between the weights:", distance)

statistics = {
  name: outcomes[name].variables["batch_stats"]["Norm_2"]
  for name in ("mean", "moments", "recalibrate")
  if name in outcomes
}
base_mean, base_var = statistics["mean"]["mean"], statistics["mean"]["var"]
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
order = np.argsort(statistics["moments"]["var"] / base_var)
for i, (name, stats) in enumerate(statistics.items()):
  panels[0].plot(
    ((stats["mean"] - base_mean) / np.sqrt(base_var))[order], label=name, **base.style(i)
  )
  panels[1].plot((stats["var"] / base_var)[order], label=name, **base.style(i))
panels[0].set_title("running means, less those of 'mean', in deviations", loc="left", fontsize=10)
panels[1].set_title("running variances, relative to those of 'mean'", loc="left", fontsize=10)
for axes in panels:
  axes.set_xlabel("channel of the last norm, sorted by the right panel")
  base.tidy(axes)
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
plt.show()

# %% [markdown]
# The variance of all clients together is the mean of their variances *plus the variance between their means*, $\sigma^2 = \sum_k p_k (\sigma_k^2 + (\mu_k - \mu)^2)$. `mean` leaves the second term out, and `moments` adds it, which changes little here. `recalibrate` measures with the *averaged* weights, and the other two with each client's weights during its local steps, whose variances are about a third larger in this layer.
#
# ## 3. Clients whose images look different
#
# Now every client has all classes, but its images have another brightness, as from another scanner.

# %%
iid = fn.make_partition("feature", labels, CLIENTS, 0)
brightness = fn.Preprocess(feature_shift="brightness")
bright = {
  name: train(name, iid, brightness)
  for name in ("mean", "local", "fedbn", "gn")
  if FULL or name in ("mean", "fedbn")
}
print(
  columns_table(["policy", "all images", "own images", "worst client", "sent"], client_rows(bright))
)

# %% [markdown]
# *All images* is the accuracy on test images of unchanged brightness, and *own images* that on test images as the client sees them. Here the picture is reversed: the averaged statistics of `mean` suit no client, and those that stay at the client (`local`, `fedbn`) do. `gn` normalizes each image by itself and needs none of this.
#
# ## What to choose
#
# There is a case that no policy repairs. If each client has one class and averages after every step, then not only the statistics are wrong but also the gradients, which pass through the statistics of a single class. FixBN stops using the batch halfway through; [notebook 01](01_norms_as_axes.ipynb) shows why this helps.
#
# | your clients | choose |
# | --- | --- |
# | look alike, or have several classes and many local steps | `--batch_stats=mean`, the default |
# | have images of different appearance, and each may have a model of its own | `--batch_stats=local` or `--fedbn` |
# | have few classes and are averaged often | `--norm=fixbn`, or `--norm=gn` without any statistics |
#
# To see the answer for *your* partition, run `python -m experiments.study --norms=bn,fedbn,silobn,fixbn,gn`, which tunes a learning rate for each and repeats over seeds.
