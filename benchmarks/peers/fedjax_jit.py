"""FedJAX's federated averaging on its jit back end, with a Haiku model."""

import time
from collections.abc import Callable

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import job as jobs
from benchmarks.peers.jax_compile import CompileClock
from benchmarks.peers.job import Job, Result


def _conv(features: int, groups: int, name: str, size=3, stride=1, padding="SAME") -> hk.Conv2D:
  return hk.Conv2D(features, size, stride, padding=padding, with_bias=not groups, name=name)


def _norm(groups: int, x: jax.Array, name: str) -> jax.Array:
  return hk.GroupNorm(groups, eps=1e-5, name=name)(x) if groups else x


class Block(hk.Module):
  """Two 3x3 convolutions and a shortcut: 1x1, or strided with zero channels added."""

  def __init__(self, features: int, stride: int, groups: int, projection: bool, name: str):
    super().__init__(name=name)
    self.features, self.stride, self.groups = features, stride, groups
    self.projection = projection

  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, I] -> [N, H', W', features]."""
    features, stride, groups = self.features, self.stride, self.groups
    y = _conv(features, groups, "Conv_0", stride=stride)(x)
    y = jax.nn.relu(_norm(groups, y, "Norm_0"))
    y = _norm(groups, _conv(features, groups, "Conv_1")(y), "Norm_1")
    if x.shape != y.shape:
      if self.projection:
        x = _conv(features, groups, "shortcut", 1, stride, "VALID")(x)
        x = _norm(groups, x, "shortcut_norm")
      else:
        x = x[:, ::stride, ::stride]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
    return jax.nn.relu(x + y)


def _network(job: Job) -> Callable[[dict[str, jax.Array]], jax.Array]:
  """Computes the forward pass of a training batch, for Haiku to transform."""
  groups = job.groups

  def tiny(x):
    for index, (features, stride) in enumerate(((32, 1), (64, 2), (64, 1))):
      x = _conv(features, groups, f"Conv_{index}", stride=stride)(x)
      x = jax.nn.relu(_norm(groups, x, f"Norm_{index}"))
    return hk.Linear(job.num_classes, name="Dense_0")(x.mean((1, 2)))

  def cnn(x):
    for index, features in enumerate((32, 64)):
      x = _conv(features, groups, f"Conv_{index}", padding="VALID")(x)
      x = jax.nn.relu(_norm(groups, x, f"Norm_{index}"))
    x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = hk.Flatten()(hk.dropout(hk.next_rng_key(), 0.25, x))
    x = jax.nn.relu(hk.Linear(128, name="Dense_0")(x))
    return hk.Linear(job.num_classes, name="Dense_1")(hk.dropout(hk.next_rng_key(), 0.5, x))

  def niid(x):
    for index, features in enumerate((6, 16)):
      x = _conv(features, groups, f"Conv_{index}", 5, padding="VALID")(x)
      x = jax.nn.relu(_norm(groups, x, f"Norm_{index}"))
      x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = hk.Flatten()(x)
    for index, features in enumerate((120, 84)):
      x = jax.nn.relu(hk.Linear(features, name=f"Dense_{index}")(x))
    return hk.Linear(job.num_classes, name="Dense_2")(x)

  def resnet(x, stages, features, projection):
    x = jax.nn.relu(_norm(groups, _conv(features, groups, "Conv_0")(x), "Norm_0"))
    depth = 0
    for stage, blocks in enumerate(stages):
      for block in range(blocks):
        stride = 2 if stage and not block else 1
        x = Block(features * 2**stage, stride, groups, projection, f"Block_{depth}")(x)
        depth += 1
    return hk.Linear(job.num_classes, name="Dense_0")(x.mean((1, 2)))

  networks: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tiny": tiny,
    "cnn": cnn,
    "niid": niid,
    "resnet20": lambda x: resnet(x, (3, 3, 3), 16, False),
    "resnet18": lambda x: resnet(x, (2, 2, 2, 2), 64, True),
  }
  return lambda batch: networks[job.model](batch["x"])


def _parameters(weights: dict[str, np.ndarray]) -> dict[str, dict[str, jax.Array]]:
  """Returns the exported parameters under Haiku's names."""
  params: dict[str, dict[str, jax.Array]] = {}
  for path, values in weights.items():
    module, _, kind = path.rpartition("/")
    normalizes = module.rpartition("/")[2].lower().rstrip("_0123456789").endswith("norm")
    name = {"kernel": "w", "scale": "scale", "bias": "offset" if normalizes else "b"}[kind]
    params.setdefault(module, {})[name] = jnp.asarray(values)
  return params


def _to_float(examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  x = examples["x"]
  return {**examples, "x": x.astype(np.float32) / 255 if x.dtype == np.uint8 else x}


def measure(job: Job) -> Result:
  """Measures FedJAX."""
  clock = CompileClock()
  images, labels = jobs.array(job, "data/x_train"), jobs.array(job, "data/y_train")
  data = fedjax.InMemoryFederatedData(
    {
      client: {"x": images[ids], "y": labels[ids]}
      for client, ids in enumerate(jobs.client_ids(job))
    }
  ).preprocess_batch(_to_float)
  sample = {"x": np.zeros((1, *images.shape[1:]), np.float32), "y": np.zeros(1, np.int32)}
  model = fedjax.create_model_from_haiku(
    hk.transform(_network(job)),
    sample,
    lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits),
  )
  params = _parameters(jobs.weights(job))
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(job.seed))
  if jax.tree_util.tree_map(jnp.shape, params) != jax.tree_util.tree_map(jnp.shape, shapes):
    raise ValueError("the exported parameters do not fit the model.")
  fedjax.set_for_each_client_backend("jit")
  algorithm = fedjax.algorithms.fed_avg.federated_averaging(
    fedjax.model_grad(model),
    fedjax.optimizers.sgd(job.rate, job.momentum or None),
    fedjax.optimizers.sgd(1.0),
    fedjax.ShuffleRepeatBatchHParams(
      job.batch_size,
      num_epochs=None if job.local_steps else 1,  # whose last batch it fills up
      num_steps=job.local_steps or None,
      seed=job.seed,
    ),
  )
  state = algorithm.init(params)
  cohorts = jobs.array(job, "cohorts").tolist()
  begun, ends, compiled = time.perf_counter(), [], 0.0
  for round_ in range(job.rounds):
    keys = jax.random.split(jax.random.PRNGKey(round_), job.cohort)
    members = data.get_clients(cohorts[round_])
    cohort = [(*member, key) for member, key in zip(members, keys, strict=True)]
    state, _ = algorithm.apply(state, cohort)
    if (round_ + 1) % job.rounds_per_sample == 0:
      jax.block_until_ready(state.params)
      ends.append(time.perf_counter())
      compiled = compiled or clock.seconds(begun)
  result = jobs.result(job, begun, ends)
  result.device = jax.default_backend()
  result.compile = compiled
  result.first -= compiled / job.rounds_per_sample
  return result


if __name__ == "__main__":
  jobs.main(measure)
