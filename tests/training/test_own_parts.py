"""A user's own module, arrays, clients, objective and callback; arguments of wrong types."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import fedjax_norm as fn
from fedjax_norm.models.flops import layer_macs, training_flops
from fedjax_norm.norm import Norm
from fedjax_norm.training.run import initial_variables

CLIENTS = np.arange(60) % 3
LOCAL = fn.LocalConfig(batch_size=8)
LOOP = fn.LoopConfig(4, 2)


class Plain(nn.Module):
  """A plain flax module with dropout, which is told whether it trains."""

  classes: int = 4

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.LayerNorm()(nn.Dense(16)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.classes)(x)


class Deterministic(Plain):
  """The same, told the other way round."""

  @nn.compact
  def __call__(self, x, *, deterministic: bool):
    x = nn.LayerNorm()(nn.Dense(16)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(x))
    return nn.Dense(self.classes)(x)


class WithMode(nn.Module):
  """A module that takes a norm and a mode, as the models of the library do."""

  norm: fn.NormSpec

  @nn.compact
  def __call__(self, x, mode: fn.Mode):
    return nn.Dense(4)(Norm(self.norm)(nn.Conv(4, (3, 3))(x), mode).mean((1, 2)))


class Statistics(nn.Module):
  """A module with batch statistics of its own."""

  @nn.compact
  def __call__(self, x, train: bool):
    return nn.Dense(4)(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1)))


class Needy(nn.Module):
  """A module that needs what nobody gives it."""

  @nn.compact
  def __call__(self, x, temperature):
    return nn.Dense(4)(x.reshape(len(x), -1)) / temperature


def run(task, *groups, **options):
  return fn.run("fedavg", task, LOCAL, LOOP, *groups, **{"lr": 0.05, **options})


@pytest.fixture(scope="module")
def task(tiny_source):
  return fn.make_task(tiny_source, CLIENTS, model=Plain())


def outputs(task, train, key=0):
  """What the model says of some images, and its variables."""
  images = jnp.ones((2, *task.image_shape))
  variables = task.model.init(jax.random.key(0), images, fn.Mode())
  rngs = {"dropout": jax.random.key(key)}
  return task.model.apply(variables, images, fn.Mode(train=train), rngs=rngs), variables


@pytest.mark.parametrize("module", [Plain(), Deterministic()], ids=["train", "deterministic"])
def test_a_plain_module_drops_in_training_alone(tiny_source, module):
  task = fn.make_task(tiny_source, CLIENTS, model=module)
  tested, variables = outputs(task, False)
  np.testing.assert_array_equal(tested, outputs(task, False, 1)[0])
  assert (outputs(task, True)[0] != outputs(task, True, 1)[0]).any()
  images = jnp.ones((2, *task.image_shape))
  off = {"deterministic": True} if isinstance(module, Deterministic) else {}
  np.testing.assert_array_equal(tested, module.apply(variables, images, **off))


def test_a_plain_module_learns_and_its_variables_are_its_own(task):
  outcome = run(task, fn.LoopConfig(20, 20), local_steps=10)
  assert outcome.rows[-1]["top1"] > 0.9
  images = task.eval_transform(task.source.test.images)
  guesses = Plain().apply(outcome.variables, images).argmax(-1)
  assert np.mean(guesses == task.source.test.labels) == pytest.approx(outcome.rows[-1]["top1"])


def test_a_plain_module_has_a_simulated_clock(task):
  assert layer_macs(task.model, (6, 6, 1)) == {"Dense_0": 36 * 16, "Dense_1": 16 * 4}
  assert training_flops(task.model, (6, 6, 1)) == 2 * (2 * 36 * 16 + 3 * 16 * 4)
  assert layer_macs(WithMode(fn.make_norm("bn")), (6, 6, 1)) == {"Conv_0": 36 * 36, "Dense_0": 16}
  with pytest.raises(fn.UserError, match="no dense or convolution layer"):
    training_flops(nn.Sequential([lambda x, mode: x.mean((1, 2))]), (6, 6, 1))


def test_diagnostics_need_a_norm_of_ours(task):
  with pytest.raises(fn.UserError, match="the model has none; drop them"):
    run(task, diagnostics=True)


def test_modules_with_a_norm_stay_as_they_are(tiny_source):
  module = WithMode(fn.make_norm("bn"))
  assert fn.make_task(tiny_source, CLIENTS, model=module).model is module
  assert fn.make_task(tiny_source, CLIENTS, module.norm, module).model is module


BN = fn.make_norm("bn")


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"model": Statistics()}, "Statistics keeps variables in 'batch_stats'.*nn.GroupNorm"),
    ({"model": Plain(3)}, "Plain gives 3 outputs an image and the task needs 4"),
    ({"model": Plain(), "norm": BN}, "Plain does not take a norm, so 'bn' would do nothing"),
    ({"model": WithMode(BN), "norm": fn.make_norm("ln")}, "WithMode has norm 'bn' already"),
    ({"model": Needy()}, "Needy.__call__ needs 'temperature'"),
    ({"model": Plain(), "stem": "cifar"}, "no stem to choose"),
    ({"model": Plain(), "verification": True}, "no embedding"),
    ({"model": Plain}, "model must be an object of type str or Module, not the class Plain"),
    ({"model": "tiny"}, "model 'tiny' needs a norm"),
    ({"norm": "bn"}, "norm must be an object of type NormSpec, not a str"),
    ({"norm": BN, "preprocess": True}, "preprocess must be an object of type Preprocess"),
    ({"norm": BN, "order": "label"}, "order must be an object of type ExampleOrder"),
    (
      {"norm": BN, "objective": optax.l2_loss},
      "objective must be an object of type str or Objective, not a function",
    ),
  ],
)
def test_what_does_not_fit_is_one_sentence(tiny_source, options, words):
  with pytest.raises(fn.UserError, match=words) as error:
    fn.make_task(tiny_source, CLIENTS, **options)
  assert "\n" not in str(error.value)


def test_arrays_are_a_source(tiny_source):
  train, test = tiny_source.train, tiny_source.test
  arrays = (
    train.images[..., 0].tolist(),
    train.labels.tolist(),
    jnp.array(test.images),
    test.labels,
  )
  task = fn.make_task(arrays, CLIENTS, BN)
  for ours, theirs in zip(task.source[1:3], (train, test), strict=True):
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
  assert task.num_classes == 4


def bad(source, split="train", **fields):
  return source._replace(**{split: getattr(source, split)._replace(**fields)})


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda s: "digits", "the source must not be a str; pass the result of load_source, or four"),
    (lambda s: s.train[:2], "the source must not be a tuple; pass"),
    (lambda s: (s.train.images, s.train.labels + 0.5, *s.test[:2]), "y_train is float"),
    (lambda s: (s.train.images[:9], *s.train[1:2], *s.test[:2]), "y_train has shape"),
    (lambda s: ([[1], [1, 2]], *s.train[1:2], *s.test[:2]), "are not regular"),
    (lambda s: bad(s, labels=s.train.labels + 1), "train labels .* must be integers from 0 to 3"),
    (lambda s: bad(s, labels=s.train.labels[1:]), "one label per image"),
    (
      lambda s: bad(s, "test", images=s.test.images[:, 1:]),
      r"test images .* shape \(21, 5, 6, 1\)",
    ),
    (lambda s: bad(s, "test", images=s.test.images.astype(int)), "must be uint8 or floating"),
  ],
)
def test_data_that_is_no_source(tiny_source, make, words):
  with pytest.raises(fn.UserError, match=words):
    fn.make_task(make(tiny_source), CLIENTS, BN)


def held(task):
  data = task.data
  return [data.order[o : o + n].tolist() for o, n in zip(data.offsets, data.sizes, strict=True)]


def test_clients_by_example_and_examples_by_client(tiny_source):
  ids = [np.arange(k, 60, 3).tolist() for k in range(3)]
  for given in (CLIENTS, CLIENTS.tolist(), ids, [*map(np.array, ids)], np.array(ids)):
    assert held(fn.make_task(tiny_source, given, BN)) == ids
  reversed_ = [ids[0][::-1], ids[2] + ids[1]]
  assert held(fn.make_task(tiny_source, reversed_, BN)) == reversed_


@pytest.mark.parametrize(
  ("given", "words"),
  [
    (10, "the partition is an unsuitable int"),
    ("iid", "the partition is an unsuitable str"),
    (CLIENTS / 3, r"integers from 0 \(numpy.unique"),
    ([], "the partition is an unsuitable list"),
    ({0: [1, 2]}, "the partition is an unsuitable dict"),
    (CLIENTS[1:], "has 59 examples and the source has 60"),
    (CLIENTS - 1, "names client -1"),
    (CLIENTS * 100, "names client 100"),
    (CLIENTS * 2, "leaves client 1 without examples"),
    ([range(30), range(30, 61)], "has 61 examples"),
    ([range(30), range(31, 61)], "names example 60"),
    ([range(30), range(29, 59)], "gives example 29 twice"),
    ([range(60), []], "leaves client 1 without examples"),
    (fn.make_partition("iid", CLIENTS[1:], 3, 0), "the partition divides 59 examples"),
  ],
)
def test_what_is_no_partition(tiny_source, given, words):
  with pytest.raises(fn.UserError, match=words):
    fn.make_task(tiny_source, given, BN)


def smooth(outputs, labels):
  """Cross-entropy against 0.9 of the label and 0.1 of all classes evenly."""
  targets = 0.9 * jax.nn.one_hot(labels, outputs.shape[-1]) + 0.1 / outputs.shape[-1]
  return -(targets * jax.nn.log_softmax(outputs)).sum(-1)


def right(outputs, labels):
  return outputs.argmax(-1) == labels


def by_hand(task, variables):
  """(the smoothed loss, the accuracy) of the test set."""
  logits = np.asarray(
    Plain().apply(variables, task.eval_transform(task.source.test.images)), np.float64
  )
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  labels = task.source.test.labels
  loss = -0.9 * log_p[np.arange(len(labels)), labels] - 0.1 * log_p.mean(-1)
  return loss.mean(), np.mean(logits.argmax(-1) == labels)


@pytest.mark.parametrize("told", [right, None], ids=["right", "loss alone"])
def test_an_own_objective_is_trained_and_tested(tiny_source, tmp_path, told):
  own = fn.Objective(smooth, told, "train_right" if told else None)
  task = fn.make_task(tiny_source, CLIENTS, model=Plain(), objective=own)
  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    outcome = run(task, folder=folder)
  row, (loss, accuracy) = outcome.rows[-1], by_hand(task, outcome.variables)
  assert row["loss"] == pytest.approx(loss, rel=1e-5)
  assert ("top1" in row, "train_right" in row, "top5" in row) == (bool(told), bool(told), False)
  if told:
    assert row["top1"] == pytest.approx(accuracy)
  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    assert len(run(task, fn.LoopConfig(6, 2), folder=folder).rows) == 3
  if not told:
    with pytest.raises(fn.UserError, match="without right has no label shares"):
      run(task, evaluate_clients=2)


def test_an_own_objective_has_its_own_gradient(tiny_source):
  """One step of all clients' data as one batch, without momentum, is gradient descent."""
  own = fn.Objective(smooth)
  task = fn.make_task(
    tiny_source, np.zeros(60, int), model=nn.Sequential([_flat, nn.Dense(4)]), objective=own
  )
  config = fn.LocalConfig(batch_size=60, momentum=0.0, weight_decay=0.0)
  before = initial_variables(task, 0)["params"]["layers_1"]
  after = run(task, config, fn.LoopConfig(1, 1)).variables["params"]["layers_1"]
  x = np.asarray(task.eval_transform(task.source.train.images)).reshape(60, -1)
  logits = x @ before["kernel"] + before["bias"]
  target = 0.9 * np.eye(4)[task.source.train.labels] + 0.1 / 4
  step = x.T @ (np.asarray(jax.nn.softmax(logits)) - target) / 60
  np.testing.assert_allclose(after["kernel"], before["kernel"] - 0.05 * step, rtol=1e-4, atol=1e-6)


def _flat(x):
  return x.reshape(len(x), -1)


def test_an_own_objective_of_numbers_is_tested_by_their_measures(make_source):
  """Its loss is the test loss, in standard units; R² and the rest stay."""
  source = make_source()
  train, test = (
    part._replace(targets=part.labels[:, None].astype(np.float32)) for part in source[1:3]
  )
  source = source._replace(train=train, test=test, target_names=("label",))

  def absolute(outputs, targets):
    return jnp.abs(outputs - targets).sum(-1)

  own = fn.Objective(absolute)
  task = fn.make_task(source, CLIENTS, model=Plain(1), objective=own)
  assert task.kind == "regression"
  outcome = run(task, fn.LoopConfig(1, 1))
  row = outcome.rows[-1]
  assert row["loss"] == pytest.approx(row["mae"] / task.units.std[0], rel=1e-5)
  assert "r2" in row


def test_a_loss_that_is_a_mean_is_refused(tiny_source):
  with pytest.raises(fn.UserError, match=r"loss of the objective returns the shape \(\)"):
    fn.make_task(tiny_source, CLIENTS, BN, objective=fn.Objective(lambda o, t: smooth(o, t).mean()))


def test_a_callback_sees_every_evaluation_and_may_end_the_run(task, tmp_path):
  """It is called once the row and the checkpoint are there."""
  seen = []

  def watch(round_, row, variables):
    saved = (tmp_path / "run" / "metrics.csv").read_text().count("\n") - 1
    checkpoints = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    seen.append((round_, row["round"], saved, str(round_) in checkpoints, variables))
    return round_ == 4

  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    outcome = run(task, fn.LoopConfig(8, 2), folder=folder, on_evaluation=watch)
  assert [one[:4] for one in seen] == [(2, 2, 1, True), (4, 4, 2, True)]
  assert [row["round"] for row in outcome.rows] == [2, 4]
  jax.tree.map(np.testing.assert_array_equal, seen[-1][4], outcome.variables)
  first, last = (one[4]["params"]["Dense_0"]["kernel"] for one in seen)
  assert (first != last).any()  # the first one was not overwritten


def test_what_a_callback_raises_stops_the_run_and_keeps_what_was_saved(task, tmp_path):
  def fail(round_, row, variables):
    raise OSError("the tracker is gone")

  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    with pytest.raises(OSError, match="tracker"):
      run(task, folder=folder, on_evaluation=fail)
    assert [row["round"] for row in folder.rows()] == [2]
  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    assert [row["round"] for row in run(task, folder=folder).rows] == [2, 4]


@pytest.mark.parametrize(
  ("groups", "changed", "words"),
  [
    ((0.1,), {}, "float is no group of options"),
    ((LOOP, fn.SsgdConfig()), {}, "SsgdConfig is no group of options of FedAvgConfig"),
    (
      (fn.LocalConfig(objective="regression"),),
      {},
      "the objective of the task is 'classification'",
    ),
    ((), {"method": "fedaverage"}, "unknown method 'fedaverage'; choose one of fedavg, scaffold"),
    ((), {"task": None}, "the argument task must be an object of type Task"),
    ((), {"folder": "runs/one"}, "folder must be an object of type RunFolder, not a str"),
    ((), {"local_step": 2}, "there is no option 'local_step' here; choose from .*local_steps"),
    ((), {"rounds": 2.5}, "--rounds is 2.5; it must be a whole number"),
  ],
)
def test_wrong_arguments_of_a_run(task, groups, changed, words):
  arguments = {"method": "fedavg", "task": task, **changed}
  with pytest.raises(fn.UserError, match=words):
    fn.run(arguments.pop("method"), arguments.pop("task"), *groups, **arguments)


def test_what_own_parts_need_is_public():
  assert {
    "METHODS",
    "Algorithm",
    "Averaging",
    "Context",
    "DgcConfig",
    "Examples",
    "GaiaConfig",
    "Method",
    "Objective",
    "Source",
    "Update",
    "config_of",
    "load_run",
    "run",
  } <= {*fn.__all__}
  assert all(hasattr(fn, name) for name in fn.__all__)
