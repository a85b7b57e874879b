"""The lists of a study: their syntax, and what each combination becomes."""

import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.study.planning import axes


def test_items_have_names_and_options():
  items = axes.parse("gn:groups=8, bn ,gn:groups=8,gn:groups=4:norm_epsilon=0.1")
  assert items == [
    ("gn", {"groups": "8"}),
    ("bn", {}),
    ("gn", {"groups": "4", "norm_epsilon": "0.1"}),
  ]
  assert items[0].key == "gn:groups=8"
  assert items[2].label == "gn, groups 4, norm epsilon 0.1"


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("bn,,gn", "an empty item"),
    ("bn:groups", "write NAME:option=value"),
    ("bn:groups=", "write NAME:option=value"),
    ("fedavg:lr=0.1", "which --lrs chooses"),
    ("fedavg:rounds=3", "which --steps chooses"),
  ],
)
def test_broken_lists_are_refused(text, words):
  with pytest.raises(UserError, match=words):
    axes.parse(text)


def test_rates_and_steps():
  assert axes.parse_rates("auto") == (0.003, 0.01, 0.03, 0.1, 0.3)
  assert axes.parse_rates("0.1, 0.01,0.1") == (0.01, 0.1)
  assert axes.parse_steps("10,1,10") == [10, 1]
  for read, text in ((axes.parse_rates, "0.1,-1"), (axes.parse_rates, "x")):
    with pytest.raises(UserError, match="--lrs"):
      read(text)
  with pytest.raises(UserError, match="--local_steps"):
    axes.parse_steps("1,0")


def labels(*lists):
  return [choice.label for choice in axes.combine(*lists)]


def test_local_steps_are_crossed_only_with_methods_that_have_them():
  algorithms = "fedavg,scaffold:local_steps=4,ssgd,fedavg:local_epochs=1"
  assert labels("gn", algorithms, "1,10", None) == [
    "gn, fedavg, 1 local step",
    "gn, fedavg, 10 local steps",
    "gn, scaffold, 4 local steps",
    "gn, ssgd",
    "gn, fedavg, local epochs 1",
  ]


def test_a_combination_that_is_listed_twice_is_one_contender():
  assert labels("gn", "fedavg,fedavg:local_steps=10", "10", None) == ["gn, fedavg, 10 local steps"]


def test_names_of_files_are_unique_and_safe():
  choices = axes.combine(
    "gn:groups=8,gn,fedbn", "fedavg,fedavg:prox_mu=0.1", "1,10", "dirichlet:alpha=0.1,iid"
  )
  names = [choice.name(choice.partition.label) for choice in choices]
  assert len(set(names)) == len(names) == 24
  assert names[0] == "gn_groups_8-fedavg-1-dirichlet_alpha_0.1"
  assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)


def test_an_unknown_algorithm_is_refused_with_the_known_ones():
  with pytest.raises(UserError, match=r"--algorithms has 'fedavgg'; choose from fedavg, scaffold"):
    axes.combine("gn", "fedavgg", "1", None)


def resolve(norm, algorithm, partition=None, /, **given):
  (choice,) = axes.combine(norm, algorithm, "3", partition)
  return axes.resolve(choice, given)


def test_options_of_items_reach_the_runs():
  options, unused = resolve(
    "gn:groups=4", "gaia:threshold=0.1", "dirichlet:alpha=0.3", momentum=0.5
  )
  assert options == {
    "method": "gaia",
    "norm": "gn",
    "groups": 4,
    "threshold": 0.1,
    "partition": "dirichlet",
    "alpha": 0.3,
    "momentum": 0.5,
  }
  assert not unused


def test_aliases_are_bn_with_what_stays_on_the_client():
  assert resolve("fedbn", "fedavg")[0] == {
    "method": "fedavg", "norm": "bn", "fedbn": True, "local_steps": 3
  }  # fmt: skip
  assert resolve("silobn", "fedavg")[0]["batch_stats"] == "local"
  with pytest.raises(UserError, match="ssgd has no option fedbn"):
    resolve("fedbn", "ssgd")


def test_shared_options_are_left_out_where_they_have_no_effect():
  options, unused = resolve("bn", "fedavg", groups=4, momentum=0.5)
  assert "groups" not in options
  assert options["momentum"] == 0.5
  assert list(unused) == ["groups"]
  assert resolve("gn", "fedavg", groups=4)[0]["groups"] == 4


@pytest.mark.parametrize(
  ("lists", "words"),
  [
    (("gn:grops=4", "fedavg"), "has no option grops; did you mean groups"),
    (("gn:groups=x", "fedavg"), "groups is 'x'; give a whole number"),
    (("bn:fedbn=1", "fedavg"), "write fedbn=true or false"),
    (("bn:groups=2", "fedavg"), "--groups does nothing here"),
    (("bn", "fedavg", "iid:alpha=1"), "--alpha does nothing here"),
    (("xn", "fedavg"), "--norms has 'xn'"),
  ],
)
def test_options_that_do_not_fit_are_refused(lists, words):
  with pytest.raises(UserError, match=words):
    resolve(*lists)
