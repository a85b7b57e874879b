# %% [markdown]
# # Split learning, and what it gives away
#
# In split learning (paper 003, Gupta and Raskar 2018) a client holds the first stages of the model and a server the rest. The client sends *activations* instead of images or models. This notebook shows
#
# 1. that the result does not depend on the cut;
# 2. what the cut decides: bytes, and who computes;
# 3. how well an attacker at the server can draw the images again;
# 4. what the server learns about labels if these stay at the client (the U-shape).
#
# It runs in less than three minutes on two CPU cores. The environment variable `FEDJAX_NORM_REDUCED=1` selects a short version.

# %%
import os

import fedjax_norm as fn

CLIENTS = 10
FULL = os.environ.get("FEDJAX_NORM_REDUCED") != "1"
ROUNDS, EVAL_EVERY = (150, 15) if FULL else (2, 1)

# %%
# %matplotlib inline

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from fedjax_norm.models.stages import describe
from fedjax_norm.plots import base
from fedjax_norm.plots.curves import compare_figure
from fedjax_norm.plots.leakage import leakage_figure
from fedjax_norm.training import cut_leakage
from fedjax_norm.training.terminal.tables import columns_table, human_bytes

# %% [markdown]
# ## 1. The cut does not change the model
#
# Ten clients with one digit each take turns: a client trains for one step together with the server, and hands its part of the model over to the next one. Here are the stages of the model. It can be cut after each but the last.

# %%
source = fn.load_source("digits")
partition = fn.make_partition("classes", source.train.labels, CLIENTS, 0, classes_per_client=1)
task = fn.make_task(source, partition, fn.make_norm("gn"))
stages = describe(task.model, task.image_shape)
print(
  columns_table(
    ["stage", "activation", "parameters"],
    [[s.name, "x".join(map(str, s.shape)), f"{s.parameters:,}"] for s in stages],
  )
)

# %%
CUTS = ("conv1", "conv2", "conv3") if FULL else ("conv1", "conv3")
runs = {
  cut: fn.run("split", task, cut=cut, local_steps=1, lr=0.02, rounds=ROUNDS, eval_every=EVAL_EVERY)
  for cut in CUTS
}


def weights(outcome):
  """All weights of a run's model, as one vector."""
  return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(outcome.variables["params"])])


reference = weights(runs["conv1"])
differences = {cut: float(np.abs(weights(run) - reference).max()) for cut, run in runs.items()}
print("largest difference from the model cut after conv1:", differences)

# %% [markdown]
# The models are equal up to rounding: the gradient that the server sends back at the cut is exactly what backpropagation through the whole model would compute there. So the accuracy is that of training on one machine with the same batches in the same order.

# %%
display(
  compare_figure(
    {f"cut after {cut}": run.rows for cut, run in runs.items()},
    f"Digits, split learning, {CLIENTS} clients with one class each",
    against=("round",),
  )
)

# %% [markdown]
# ## 2. What the cut decides
#
# The activations at the cut travel up and their gradients down, for every example of every batch. Then there is the hand-over from client to client, which grows with the client's part of the model. And a deep cut moves the computation to the clients.

# %%
print(
  columns_table(
    ["cut after", "up", "down", "clients compute", "server computes"],
    [
      [
        cut,
        human_bytes(run.rows[-1]["bytes_up"]),
        human_bytes(run.rows[-1]["bytes_down"]),
        f"{run.rows[-1]['client_flops']:.2e} FLOPs",
        f"{run.rows[-1]['server_flops']:.2e} FLOPs",
      ]
      for cut, run in runs.items()
    ],
  )
)

# %% [markdown]
# ## 3. What activations give away
#
# Assume that the server is curious, and has some images of its own from the same source (here half of the test images). It can send them through the client's part of the model and train a decoder from activations to images. Then it decodes what the clients send. The library does this for each cut:

# %%
config = cut_leakage.LeakageConfig(
  examples=128 if FULL else 16, attack_steps=300 if FULL else 5, cuts=",".join(CUTS)
)
measured = cut_leakage.measure(task, runs["conv1"].variables, config)
display(leakage_figure(measured, "Digits: the trained model, cut after each stage"))

# %% [markdown]
# The images below the curves are the attacker's: the first row has the clients' images, and each other row what the attacker draws from the activations at that cut. In the panels:
#
# - *Dependence*: the distance correlation of images and activations. 1 is complete dependence, and the bias-corrected one is 0 for independent variables.
# - *Images*: the error relative to an attacker that always guesses the mean image (0 is perfect, 1 is useless), and the structural similarity.
#
# A deeper cut hides more and computes more. In the full setting the digits are legible at every cut of this small network, so "we only send activations" is no protection of images. Low figures would be no proof either: they only say that *this* attacker failed.
#
# ## 4. Labels that stay at the client
#
# In the U-shape the client also holds the last stages, so that labels never leave it. But the server receives gradients at the second cut. After a short tail, the gradient of an example points away from its class's weights: examples of one class have gradients in one direction. The right panel above measures this:

# %%
print(
  columns_table(
    [
      "tail starts after",
      "5 labels per class known",
      "no label known",
      "shuffled labels",
      "one guess",
    ],
    [
      [
        row["cut"],
        f"{row['labels_by_known']:.1%}",
        f"{row['labels_by_clusters']:.1%}",
        f"{row['labels_shuffled']:.1%}",
        f"{row['labels_chance']:.1%}",
      ]
      for row in measured.rows
    ],
  )
)

# %% [markdown]
# *Shuffled labels* is what clusters reach by chance, and *one guess* the share of the most frequent class. The later the tail starts, the more labels the server can tell from the gradients. Why? Take the gradients at the latest cut, and draw them by their two main directions:

# %%
last = CUTS[-1]
names = [stage.name for stage in stages]
begin = names.index(last) + 1
images = task.eval_transform(source.train.images[:200])
labels = source.train.labels[:200]
model, variables = task.model, runs["conv1"].variables


def loss(activations):
  """The summed cross-entropy of the tail, from the activations at the last cut."""
  logits = model.apply(variables, activations, fn.Mode(train=False), begin, len(names))
  return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, task.num_classes)).sum()


activations = model.apply(variables, images, fn.Mode(train=False), 0, begin)
gradients = np.asarray(jax.grad(loss)(activations)).reshape(len(labels), -1)
directions = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
_, _, axes_ = np.linalg.svd(directions - directions.mean(0), full_matrices=False)
flat = (directions - directions.mean(0)) @ axes_[:2].T
figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
colours = base.category_colours(task.num_classes)
for digit in range(task.num_classes):
  axes.scatter(*flat[labels == digit].T, s=16, color=colours[digit], label=digit)
axes.set_title(f"Directions of the gradients after {last}, by class", loc="left")
axes.set_xticks([])
axes.set_yticks([])
figure.legend(title="class", loc="outside right center", frameon=False)
plt.show()

# %% [markdown]
# Two directions already separate many of the classes, and all directions together separate all (the last row of the table). Who clusters the gradients has the labels up to their names, and one known example per cluster names it.
#
# With a run of your own: `python -m experiments.split --norm=gn --workdir=runs/split`, then `python -m experiments.leakage --workdir=runs/split`. The page *Split learning and what leaks* of the documentation lists all variants, and `experiments.split_server` and `experiments.split_client` train over a network.
