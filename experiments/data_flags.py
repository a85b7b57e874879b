"""The flags of the data and of its partition."""

import dataclasses

from experiments.fields import choice, integer, number, string
from fedjax_norm.data.csv_index import REGIONS
from fedjax_norm.data.partition import OPTIONS
from fedjax_norm.options import Options


@dataclasses.dataclass(frozen=True)
class DataFlags(Options):
  """What is learnt, and who holds it; a field a flag."""

  group = "data"

  data: str = string(
    "digits",
    "digits, synthetic[:key=value,...], identities[:key=value,...], npy:PATH, npz:PATH, "
    "folder:PATH, csv:PATH, or a prepared TFDS set (mnist, cifar10, cifar100, tiny_imagenet, ...; "
    "needs --data_dir).",
  )
  data_dir: str | None = string(None, "The folder of prepared TFDS sets.")
  region: str | None = choice(
    None,
    REGIONS,
    "What makes a natural client of a csv: index: a continent or subcontinent (M49), a country, or "
    "its column region, client, user or site. The column by default, or the continent if there is "
    "no such column.",
  )
  min_region_size: int = integer(
    0, "Regions of a csv: index with fewer images are left out, whatever the partition."
  )
  clients: int | None = integer(
    None, "Clients in the federation. The default is 10, or all that the data names (natural)."
  )
  partition: str | None = choice(
    None,
    tuple(OPTIONS),
    "How training examples are divided over clients; natural by default where the data names "
    "clients, else classes.",
  )
  classes_per_client: int | None = integer(
    None,
    "Classes a client holds, for --partition=classes; as few as make all of them held by default.",
  )
  ratio: float | None = number(None, "R of paper 000, 0 to 0.5 and more, for --partition=ratio.")
  fraction: float | None = number(None, "What is divided by label, for --partition=skew.")
  dominant_share: float | None = number(None, "Of the main class, for --partition=dominant.")
  alpha: float | None = number(None, "Concentration, for --partition=dirichlet or quantity.")
  exponent: float | None = number(None, "Of the power law of sizes, for --partition=quantity.")
  min_size: int | None = integer(None, "Least examples a client, for dirichlet and quantity.")
