"""What the papers have and this project does not have, with the reasons.

Tables that can be run but were not are no gaps; RESULTS.md lists them by name.
"""

from collections.abc import Mapping

GAPS: Mapping[str, tuple[tuple[str, str], ...]] = {
  "000": (
    (
      "sec. 3.1, figure 1",
      "A plain dense network with a choice of activation, and the quadratic cost for classes: not "
      "built; all experiments of the paper use convolutions and cross-entropy.",
    ),
    (
      "sec. 6.1",
      "Accuracy of the global model on the whole training set: runs record that of the training "
      "batches as they are drawn.",
    ),
    (
      "figures 5 to 7",
      "Curves of the test loss: each run has them, but the tables' pictures show accuracies.",
    ),
    (
      "sec. 7",
      "Norms with asynchronous SGD: `experiments.asgd` takes every norm, but no table compares "
      "them, because the paper names this as future work without settings.",
    ),
  ),
  "001": (
    (
      "figure 5 and Fixup",
      "Two accuracies that the text gives in words (nearly 50% with averages every 10 batches; "
      "Fixup at the best known accuracy): no claim tests them.",
    ),
    (
      "sec. on GN",
      "Lost regularization as the reason why GN is a bit lower: no claim compares training with "
      "test accuracy; both are in each run's metrics.csv.",
    ),
    (
      "figure 5",
      "Forgetting, as what a device's model knows of other devices' classes: "
      "`experiments.decentralized --diagnostics` records it for single runs; the table has the "
      "average model's accuracy only.",
    ),
    (
      "sec. on large batches",
      "A lower rate when the validation accuracy stops rising: the schedule watches the training "
      "loss; the paper does not say which quantity it watched.",
    ),
    (
      "conclusion",
      "Algorithms against forgetting: SCAFFOLD, FedNova and FedProx exist, but no table runs them "
      "in this setting, for which the paper gives none.",
    ),
  ),
  "002": (
    (
      "segmentation",
      "Results on Cityscapes, and a network of the usual size: the data must be requested from its "
      "owners and was not available; the `fcn` is small and has no skip connections.",
    ),
    (
      "gradients",
      "A verdict on the deviation of gradients: `--diagnostics` records and draws it for single "
      "runs, but no table compares norms by it.",
    ),
    (
      "statistics",
      "The difference between a client's batch statistics and the global ones that tests use: "
      "`--diagnostics` has the difference between clients.",
    ),
    (
      "communication",
      "Frozen statistics that are sent once: they are charged in each download, because a client "
      "that was in no earlier cohort needs them.",
    ),
    ("theory", "A theory of BN in federated learning: a question that the text leaves open."),
  ),
  "003": (
    (
      "tables 1 and 2",
      "ILSVRC 12: the data must be requested from its owners; Tiny-ImageNet stands in.",
    ),
    (
      "sec. 3.3 and 6",
      "Over the network (`experiments.split_server`): the autoencoder, hidden labels, relays, "
      "ensembles, regression, segmentation and a student of such a run. The simulation has them.",
    ),
    (
      "sec. 3.2 and 3.4",
      "A weight server of a third party: the encrypted weights are stored at the training server.",
    ),
    (
      "sec. 3.4",
      "Clients that join while training runs over the network: the list of clients and their "
      "certificates are fixed at the start.",
    ),
    ("appendix", "Its list of network messages: the available text does not have it."),
    (
      "figures 3 and 4",
      "Learning rates chosen for each method: these cells have one rate each. Claims on the final "
      "accuracy and on the number of rounds: the claims compare costs at a common accuracy.",
    ),
    (
      "sec. 3.3, 3.6 and 6",
      "Tables for semi-supervised learning, the U-shape, ensembles and students: single runs work; "
      "the paper prints no numbers for them.",
    ),
  ),
  "004": (
    (
      "sec. 2.2, figures 2, 9 to 15 and 20",
      "Flickr-Mammal: the pictures are not available as a whole; tables and figures read an index "
      "of your own, and the small scale uses CIFAR-10. Their collection and cleaning need Flickr's "
      "interface. An index names countries: coordinates are not read, which would need a map.",
    ),
    ("figure 18", "ImageNet: its owners must be asked for it; Tiny-ImageNet stands in."),
    (
      "figure 3",
      "CASIA-WebFace and LFW were not available, and generated identities stand in. The table "
      "draws its pairs; `--pairs` takes LFW's own for single runs.",
    ),
    (
      "figure 8",
      "The caption asks for BSP's accuracy on IID data, the text for BSP's accuracy; the table has "
      "that of BSP at the same skew.",
    ),
    (
      "sec. 7.2",
      "A choice of the interval between SkewScout's tests (the paper: 500 minibatches), and the "
      "share of time and bytes that tests need: `--scout_every` exists, cells do not.",
    ),
    (
      "sec. 4.1",
      "That runs are long enough for the accuracy to settle: curves are drawn, no claim tests it.",
    ),
    (
      "sec. 4.1 and 5.1",
      "Inception-v3 with BN, for which the text states a loss without a number, and larger "
      "minibatches with BN, an argument without an experiment: options exist, cells do not.",
    ),
    (
      "figures 4 and 21 to 24",
      "Verdicts on numbers in the text: `experiments.diagnostics` draws these figures; no claim "
      "compares them with the paper's.",
    ),
    (
      "sec. 5.2",
      "Generative networks, which the paper only names; LN inside the gates of a recurrent network "
      "(the `lstm` normalizes its inputs).",
    ),
    (
      "sec. 8, app. K",
      "Fairness as the objective, models for groups of similar clients, multi-task learning, "
      "attributes of a partition as inputs, and further algorithms (shared data, D2, matched "
      "averaging, FedCurv, VRL-SGD): named by the paper as other or future work, not built.",
    ),
    (
      "app. K",
      "Features that change over time, and events that neighbours share: `--drift` changes which "
      "examples a client has, and `--correlation` its class sizes.",
    ),
    ("sec. 7.1", "SkewScout for other methods than Gaia, FedAvg and DGC."),
    (
      "sec. 7.3",
      "Gaia, DGC and SkewScout on several machines: one process simulates them; FedAvg and SSGD "
      "run on several.",
    ),
  ),
}
"""Paper -> (part of the paper, what is missing and why)."""
