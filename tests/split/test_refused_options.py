"""Options that split learning refuses."""

import pytest
from helpers.settings import configure
from helpers.split_world import LOCAL, algorithm, net

from fedjax_norm.errors import UserError
from fedjax_norm.options import with_defaults
from fedjax_norm.split.config import SplitConfig

V1, V2 = (with_defaults(SplitConfig, variant=f"splitfed_v{n}") for n in (1, 2))


@pytest.mark.parametrize(
  ("kind", "options", "says"),
  [
    (SplitConfig, {"cut": "shift"}, "before the first stage with parameters"),
    (SplitConfig, {"cut": "head"}, "is the last"),
    (SplitConfig, {"cut": "conv9"}, "conv, mix, body"),
    (SplitConfig, {"cut": "mix", "tail": "conv"}, "not in the order"),
    (SplitConfig, {"cut": "conv", "relays": "mix", "hand_over": "peer"}, "see both ends"),
    (
      SplitConfig,
      {"cut": "conv", "tail": "body", "relays": "mix,body", "hand_over": "peer"},
      "drop the tail",
    ),
    (
      SplitConfig,
      {"cut": "conv", "relays": "mix,body", "hand_over": "centralised"},
      "hand_over=peer",
    ),
    (V1, {"turn_order": "shuffled"}, "no order"),
    (SplitConfig, {"client_momentum": "local"}, "momentum over"),
    (V2, {"handed_over": "updates"}, "averaged weights"),
    (SplitConfig, {"local_steps": 1, "local_epochs": 1}, "exclude each other"),
    (SplitConfig, {"batch_stats": "moments"}, "nothing to average"),
    (SplitConfig, {"autoencoder": 0.0}, "must be above 0"),
    (SplitConfig, {"accumulate": 2}, "as a whole"),
  ],
)
def test_invalid_options_are_refused(kind, options, says):
  with pytest.raises(UserError, match=says):
    algorithm(net("bn"), configure(kind, LOCAL, **options))


def test_updates_of_weight_normalization_are_refused():
  with pytest.raises(UserError, match="depend only on the seed"):
    algorithm(net("wn"), configure(SplitConfig, LOCAL, handed_over="updates"))


def test_norms_across_clients_are_refused():
  with pytest.raises(UserError, match="one client at a time"):
    algorithm(net("sync_bn"), configure(SplitConfig, LOCAL, cut="conv"))
