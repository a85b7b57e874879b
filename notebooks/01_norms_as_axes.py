# %% [markdown]
# # A normalization is a choice of axes
#
# Ten clients, each with the images of a single digit: the hardest partition there is. Batch normalization fails on it, group normalization does not, and FixBN repairs batch normalization halfway through. This notebook shows why, with pictures that are computed by the library:
#
# 1. which elements of an activation share a mean, for each norm;
# 2. how four norms perform in the same federation;
# 3. how far the clients' batch statistics are from the ones that evaluation uses;
# 4. what freezing the statistics changes;
# 5. which norm to choose, and how many bytes it sends.
#
# Everything runs on a CPU. The full setting trains 600 rounds per run and takes less than three minutes on two cores; the environment variable `FEDJAX_NORM_REDUCED=1` selects a short version.

# %%
import os

import fedjax_norm

CLIENTS = 10
# Before anything uses JAX: on a CPU, clients train in parallel on single-threaded devices.
fedjax_norm.use_host_devices(min(os.cpu_count() or 1, CLIENTS))

FULL = os.environ.get("FEDJAX_NORM_REDUCED") != "1"
ROUNDS, EVAL_EVERY = (600, 25) if FULL else (40, 10)

# %%
# %matplotlib inline

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from fedjax_norm.data.federated import draw, federate
from fedjax_norm.norm import Mode, Norm
from fedjax_norm.plots import base as plots
from fedjax_norm.plots import clients as client_plots
from fedjax_norm.plots import curves as curve_plots
from fedjax_norm.training.terminal.tables import columns_table

# %% [markdown]
# ## 1. Who shares a mean with whom
#
# Take an activation of `N` examples, `S` positions and `C` channels. Every norm here computes
#
# $$y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta,$$
#
# and they differ only in the elements over which $\mu$ and $\sigma^2$ are computed. A `NormSpec` describes this with a few fields: the axes that it reduces, the number of channel groups, and the source of the statistics.
#
# To see it, ask a layer directly: the gradient of *one* output with respect to *all* inputs is nonzero exactly where an input takes part in that output's statistics.

# %%
N, S, C = 4, 5, 6
SPECS = {
  "bn": fedjax_norm.make_norm("bn"),
  "gn, 2 groups": fedjax_norm.make_norm("gn", groups=2),
  "ln": fedjax_norm.make_norm("ln"),
  "in": fedjax_norm.make_norm("in"),
  "cn": fedjax_norm.make_norm("cn"),
  "fixbn, frozen": fedjax_norm.make_norm("fixbn").frozen(),
}


def influence(spec):
  """Which inputs the first output of a training step depends on: [N, S, C] bool."""
  layer, mode = Norm(spec), Mode(train=True)

  def first_output(x):
    variables = layer.init(jax.random.key(1), x, mode)
    y, _ = layer.apply(variables, x, mode, mutable=["batch_stats"])
    return y[0, 0, 0]

  x = np.random.default_rng(0).normal(size=(N, S, C)).astype(np.float32)
  return np.asarray(jax.jit(jax.grad(first_output))(x)) != 0


shared = {name: influence(spec) for name, spec in SPECS.items()}
print(
  columns_table(
    ["norm", "reduce", "across examples", "across positions", "across channels", "inputs"],
    [
      [
        name,
        SPECS[name].reduce,
        *("yes" if mask.any(others).sum() > 1 else "-" for others in ((1, 2), (0, 2), (0, 1))),
        f"{mask.sum()} of {mask.size}",
      ]
      for name, mask in shared.items()
    ],
  )
)

# %%
figure = plt.figure(figsize=(10.5, 6.6), layout="constrained")
for index, (name, mask) in enumerate(shared.items()):
  axes = figure.add_subplot(2, 3, index + 1, projection="3d")
  # Channels to the right, examples into the depth, positions downwards from the first.
  cube = mask.transpose(2, 0, 1)[:, :, ::-1]
  colours = np.where(cube, plots.COLOURS[0], "#ececec").astype(object)
  colours[0, 0, -1] = plots.COLOURS[1]
  axes.voxels(np.ones_like(cube), facecolors=colours, edgecolor="white", linewidth=0.6, shade=False)
  axes.view_init(elev=24, azim=-122)
  axes.set_aspect("equal")
  axes.set_title(name, y=0.96)
  axes.set_xlabel(f"C = {C}", labelpad=-14)
  axes.set_ylabel(f"N = {N}", labelpad=-14)
  axes.set_zlabel(f"S = {S}", labelpad=-14)
  axes.set(xticks=[], yticks=[], zticks=[])
  for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
    axis.pane.set_visible(False)
    axis.line.set_color("none")
figure.suptitle("Blue inputs (and itself) decide the statistics of the orange element")
plt.show()

# %% [markdown]
# Only `bn` is blue along `N`: the output for one image depends on the other images of the batch. That is harmless if every batch looks like the whole data; below, a client's batch does not, and that is the problem. `gn`, `ln`, `in` and `cn` stay inside one example, so a client normalizes as any other client would. A frozen `fixbn` depends only on the element itself: its statistics are constants.
#
# (For `sync_bn` the blue set also covers the batches of all other clients, and before its freeze `fixbn` is `bn`.)

# %% [markdown]
# ## 2. Four norms, one federation
#
# Two ways to divide the same 1,437 images of handwritten digits over ten clients.

# %%
source = fedjax_norm.load_source("digits")
labels = source.train.labels
PARTITIONS = {
  "one class each": fedjax_norm.make_partition("classes", labels, CLIENTS, 0, classes_per_client=1),
  "iid": fedjax_norm.make_partition("iid", labels, CLIENTS, 0),
}
for name, partition in PARTITIONS.items():
  counts = fedjax_norm.data.partitions.registry.counts(partition, labels, len(source.class_names))
  display(client_plots.partition_figure(counts, source.class_names, f"Training images: {name}"))

# %% [markdown]
# The same run with four norms on the one-class clients: FedAvg with one local step on 32 examples per round, SGD with learning rate 0.02, momentum 0.9 kept on the client, and weight decay 5e-4. Only the norm differs: `fixbn` freezes its statistics halfway, and nothing else changes at the freeze.

# %%
from fedjax_norm import make_norm, make_task


def run(norm):
  """Trains the small network on the clients with one class each."""
  task = make_task(source, PARTITIONS["one class each"], norm, "tiny")
  length = {"rounds": ROUNDS, "eval_every": EVAL_EVERY}
  outcome = fedjax_norm.run("fedavg", task, local_steps=1, lr=0.02, **length)
  return task, outcome


runs = {
  "gn": run(make_norm("gn", groups=8)),
  "fixbn": run(make_norm("fixbn")),
  "sync_bn": run(make_norm("sync_bn")),
  "bn": run(make_norm("bn")),
}

# %%
display(
  curve_plots.compare_figure(
    {name: outcome.rows for name, (_, outcome) in runs.items()},
    f"Digits, {CLIENTS} clients with one class each",
  )
)
print(
  columns_table(
    ["run", "in training, own batch", "test, at the freeze", "test, at the end"],
    [
      [
        name,
        f"{outcome.rows[-1]['train_top1']:.1%}",
        *(f"{row['top1']:.1%}" for row in outcome.rows if row["round"] == outcome.frozen_at),
        *([] if outcome.frozen_at else ["-"]),
        f"{outcome.rows[-1]['top1']:.1%}",
      ]
      for name, (_, outcome) in runs.items()
    ],
  )
)

# %% [markdown]
# What to look for, with the figures that we measured in the full setting (600 rounds, five seeds; expect a few points of difference elsewhere):
#
# - `gn` is at about 98% from round 100 on and at 99% at the end, and so is `sync_bn`. The clients are as skewed as possible, so skew by itself is not the problem.
# - `bn` climbs to about 84% by round 200 and then *falls*, to between 53% and 63% depending on the seed. In training it classifies 100% of its own batches correctly. More rounds widen the gap.
# - `fixbn` is `bn` until the freeze, at about 71% in round 300; it is unsteady at first, passes 90% by round 450 on average and ends between 95% and 99%.
#
# In the reduced setting (40 rounds) the curves have only begun: `gn` is already far above `bn`, and `fixbn` freezes after 20 rounds, before its statistics are useful.

# %% [markdown]
# ## 3. Why batch normalization breaks
#
# First, is it the statistics or the weights? Take the trained networks as they are and classify the test images three times: with the running statistics, as every evaluation does; in training mode, in batches of mixed classes; and in training mode in batches of a single class, which is what the clients trained with. (The last one is not an honest way to predict, because it knows which images belong together. It only shows how the network works.)

# %%
test = source.test
COMPANIES = {
  "batches of mixed classes": np.array_split(
    np.random.default_rng(0).permutation(len(test.labels)), len(source.class_names)
  ),
  "batches of one class": [
    np.flatnonzero(test.labels == label) for label in range(len(source.class_names))
  ],
}


def training_mode_accuracies(name, size=64):
  """Test accuracies of a run's network when it normalizes these batches as in training."""
  task, outcome = runs[name]

  @jax.jit
  def correct(variables, images, labels, mask):
    def one(batch):
      images, labels, mask = batch
      mode = Mode(train=True, mask=mask)
      images = task.eval_transform(images)
      logits, _ = task.model.apply(variables, images, mode, mutable=["batch_stats"])
      return (mask * (logits.argmax(-1) == labels)).sum()

    return jax.lax.map(one, (images, labels, mask)).sum()

  found = {}
  for company, batches in COMPANIES.items():
    ids = np.stack([np.resize(batch, size) for batch in batches])
    mask = np.float32([np.arange(size) < len(batch) for batch in batches])
    right = correct(outcome.variables, test.images[ids], test.labels[ids], mask)
    found[company] = float(right) / len(test.labels)
  return found


by_company = {
  name: {"running statistics": runs[name][1].rows[-1]["top1"], **training_mode_accuracies(name)}
  for name in ("bn", "gn")
}
print(
  columns_table(
    ["run", *by_company["bn"]],
    [[name, *(f"{value:.1%}" for value in row.values())] for name, row in by_company.items()],
  )
)

# %% [markdown]
# The weights of `bn` fit their training: in the full setting they are about as bad with the statistics of mixed batches as with the running statistics, but 100% right in batches of one class. So better estimates of the global statistics would not help: the network has learned to read images *relative to their batch*, and knows only batches of one class. For `gn` the three numbers are equal, because the other images of a batch do not matter.
#
# So how far are the statistics apart? Send all the training images of each client through the network that `bn` has trained, and let the first norm report the means that it subtracts. A dot is one client's mean $\mu_k$ of one channel, as its distance $(\mu_k - \mu) / \sigma$ from the running mean $\mu$ that evaluation subtracts, in running standard deviations. The lower panel sends the IID clients' images through the same network: the panels differ only in which images form a batch.
#
# Hsieh et al. (2020, sec. 5.1 and fig. 4) measure the same divergence between two partitions, relative to the average mean; dividing by $\sigma$ says how far the normalized activation itself moves.

# %%
task, trained = runs["bn"]


@jax.jit
def client_moments(data, variables):
  """The moments of each client's images, {layer: {"batch": Moments [K, channels]}}."""

  def one(client):
    # One batch of all images of the client, padded to 192 and masked.
    batch = draw(data, client, jnp.int32(0), 192, task.transform, jax.random.key(1))
    mode = Mode(train=True, mask=batch.mask)
    _, changed = task.model.apply(variables, batch.images, mode, mutable=["batch_stats", "moments"])
    return changed["moments"]

  return jax.lax.map(one, jnp.arange(CLIENTS, dtype=jnp.int32))


def shifts(data):
  """(a client's mean - running mean) / running deviation, {layer: [K, channels]}."""
  moments = client_moments(jax.tree.map(jnp.asarray, data), trained.variables)
  return {
    layer: (np.asarray(moments[layer]["batch"].mean) - stats["mean"]) / np.sqrt(stats["var"])
    for layer, stats in sorted(trained.variables["batch_stats"].items())
  }


distance = {
  name: shifts(federate(source.train, partition)) for name, partition in PARTITIONS.items()
}

# %%
figure, panels = plt.subplots(2, 1, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
colours = plt.colormaps["tab10"](np.arange(CLIENTS))
order = np.argsort(np.ptp(distance["one class each"]["Norm_0"], axis=0))
for axes, (name, layers) in zip(panels, distance.items(), strict=True):
  for client, values in enumerate(layers["Norm_0"]):
    axes.scatter(
      np.arange(len(order)), values[order], s=20, color=colours[client], label=client, linewidth=0
    )
  axes.axhline(0, color="0.2", linewidth=1, zorder=0)
  axes.grid(axis="x", color="0.93")
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.set_title(name, loc="left")
figure.supylabel("client's mean - running mean, in deviations", fontsize=10)
panels[-1].set_xlabel("channel of the first norm, sorted by its spread in the upper panel")
panels[-1].set_xticks(np.arange(0, len(order), 4))
handles, names = panels[0].get_legend_handles_labels()
figure.legend(handles, names, title="client", loc="outside right center", frameon=False)
plt.show()

print(
  columns_table(
    ["root mean square distance", "first norm", "second norm", "third norm"],
    [
      [name, *(f"{np.sqrt((values**2).mean()):.2f}" for values in layers.values())]
      for name, layers in distance.items()
    ],
  )
)

# %% [markdown]
# The IID clients stay close to zero, while the clients with one class are far from it, each in another direction: their means encode the class. In the full setting they are several times as far away as the IID clients, at every norm. (In the reduced one the running statistics of the deeper norms still lag behind the weights, which moves all clients alike.) In deviations the distances look small, because $\sigma$ is taken over all pixels of all images; but a network whose training batches have every class centred at zero must tell the classes apart by fine differences, and the table above shows how much depends on them.
#
# So each client trains a function that subtracts *its own* means, and the server evaluates one that subtracts an average which no client ever trained with. More rounds do not repair that, because every gradient belongs to the client's function.

# %% [markdown]
# ## 4. What the freeze does
#
# After the freeze a norm of `fixbn` is $y = a x + b$ per channel, with $a = \gamma / \sqrt{\sigma^2 + \epsilon}$ and $b = \beta - a \mu$ from the averaged statistics: the same map on every client, in training and in evaluation. Put one image into two batches, once among its own digit and once among others, and compare its logits in training mode.

# %%
own, other = (np.flatnonzero(test.labels == digit)[:32] for digit in (3, 8))
companies = {"among 3s": own, "among 8s": np.concatenate([own[:1], other[:31]])}


def training_logits(task, outcome, spec, ids):
  """Logits of the first image of a batch, as a client's training step computes them."""
  model = task.model.clone(norm=spec)

  @jax.jit
  def forward(variables, images):
    images = task.eval_transform(images)
    return model.apply(variables, images, Mode(train=True), mutable=["batch_stats"])[0]

  return np.asarray(forward(outcome.variables, test.images[ids])[0])


logits = {
  title: {company: training_logits(*runs[name], spec, ids) for company, ids in companies.items()}
  for title, name, spec in (
    ("bn", "bn", SPECS["bn"]),
    ("fixbn after the freeze", "fixbn", SPECS["fixbn, frozen"]),
  )
}
moved = {title: float(np.ptp(list(pair.values()), axis=0).max()) for title, pair in logits.items()}

figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for axes, (title, pair) in zip(panels, logits.items(), strict=True):
  for i, (company, values) in enumerate(pair.items()):
    axes.bar(
      np.arange(10) + 0.4 * i - 0.2, values, width=0.38, color=plots.COLOURS[i], label=company
    )
  axes.axhline(0, color="0.2", linewidth=0.8)
  axes.set_xticks(range(10))
  axes.set_xlabel("class")
  axes.set_title(f"{title}: logits move by up to {moved[title]:.2g}")
  axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("logit of the same 3")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
plt.show()

# %%
_, outcome = runs["fixbn"]
layer = {kind: tree["Norm_0"] for kind, tree in outcome.variables.items()}
x = np.random.default_rng(1).normal(size=(16, 8, 8, 32)).astype(np.float32)
spec = SPECS["fixbn, frozen"]
y = np.asarray(Norm(spec).apply(layer, x, Mode(train=True)))
a = layer["params"]["scale"] / np.sqrt(layer["batch_stats"]["var"] + spec.epsilon)
b = layer["params"]["bias"] - a * layer["batch_stats"]["mean"]
affine_error = float(np.abs(y - (a * x + b)).max())
print(f"largest |Norm(x) - (a x + b)| over a random batch: {affine_error:.1e}")


# %% [markdown]
# With `bn` the other images of the batch strongly affect the answer; the same 3 among 8s may even be classified as an 8. The frozen norm ignores them, so a gradient computed on a client is the gradient of exactly the function that the server evaluates. With one local step per round that makes the average of the clients' gradients the gradient on their joint batch, as in central training (Zhong et al., *Making Batch Normalization Great in Federated Deep Learning*). The price is that batches no longer normalize the network, and activations can drift as without norms. A learning rate that suits `bn` can therefore be too high after the freeze: at 0.05 this run ends in a loss that is not a number. Then lower the rate for every norm, or lower it and clip gradients from the freeze on with `FreezeConfig(freeze_lr_factor=0.2, freeze_clip_norm=1.0)`.

# %% [markdown]
# ## 5. What to choose
#
# First, what each run sends, from the ledger in the outcome's rows: bytes per client and round, and the number of sequential exchanges in a round.


# %%
def per_round(rows, first, last):
  """(KiB up, KiB down, round trips) of one client a round, between two rows."""
  start = rows[first] if first is not None else dict.fromkeys(rows[0], 0)
  rounds = rows[last]["round"] - start["round"]
  up, down, trips = (
    (rows[last][key] - start[key]) / rounds for key in ("bytes_up", "bytes_down", "round_trips")
  )
  return up / CLIENTS / 1024, down / CLIENTS / 1024, trips


traffic = {name: per_round(outcome.rows, None, 0) for name, (_, outcome) in runs.items()}
traffic["fixbn, frozen"] = per_round(runs["fixbn"][1].rows, -2, -1)
print(
  columns_table(
    ["run", "KiB up", "KiB down", "round trips"],
    [
      [name, f"{up:.1f}", f"{down:.1f}", f"{trips:g}"]
      for name, (up, down, trips) in traffic.items()
    ],
  )
)

# %% [markdown]
# The statistics of `bn` are tiny compared with the weights, and clients stop sending them once they are frozen. `sync_bn` sends little more, but waits for all clients at every norm of every step, forward and backward: cheap in a data centre, too slow over a network of phones.
#
# | norm | choose it when | mind |
# | --- | --- | --- |
# | `bn` | clients look alike (IID or mildly skewed), or take many local steps | label skew with frequent averaging; small batches |
# | `fixbn` | you want a network with `bn` and the skew is strong: costs nothing extra | freeze once the statistics have settled; a rate that is not too high |
# | `sync_bn` | nodes share a fast network and step in lock-step | round trips; all nodes must take part |
# | `gn` | skew is strong and averaging frequent, or batches are small | the number of groups; can be worse than `bn` where `bn` works |
# | `ln`, `in`, `cn` | as `gn`, at the ends of the choice of groups and axes | `in` erases each channel's mean over an image; often weaker for classification |
#
# These are starting points from small experiments and from the papers; your federation may disagree. To try another one, change a single line above: `make_norm("ln")`, another `make_partition` (`"dirichlet"`, `"ratio"`, ...), more `local_steps`.
