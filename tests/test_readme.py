"""README and the pages of the documentation name everything that there is."""

import re

from helpers.binaries import ROOT

from fedjax_norm import norm
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import methods
from fedjax_norm.data.partitions.registry import OPTIONS
from fedjax_norm.models import MODELS

README = (ROOT / "README.md").read_text()


def page(name: str) -> str:
  return (ROOT / "docs" / f"{name}.md").read_text()


def rows(text: str) -> set[str]:
  return set(re.findall(r"^\| `(\w+)`[^|]* \|", text, re.MULTILINE))


def test_the_readme_names_everything_in_at_most_900_words():
  for name in (*norm.NAMES, *METHODS, *MODELS, *OPTIONS):
    assert f"`{name}`" in README
  assert len(README.split()) <= 900


def test_the_tables_of_the_pages_are_complete():
  assert rows(page("choosing_a_norm")) >= set(norm.NAMES)
  communication = page("communication")
  assert rows(communication) >= {*methods.DECENTRALIZED.configs, *METHODS}
  for name, method in METHODS.items():
    assert f"\n| `{name}` | {method.help} |\n" in communication
  assert rows(page("your_data")) >= set(OPTIONS)
  for name in MODELS:
    assert f"`{name}`" in page("options")


def test_the_citation_has_the_version_of_the_package():
  (version,) = re.findall(r"^version = (.*)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
  assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_repository_has_one_address():
  paths = [ROOT / name for name in ("setup.cfg", "README.md", "docs/get_started.md")]
  paths += [ROOT / "notebooks/build.py", *(ROOT / "notebooks").glob("*.ipynb")]
  found = [re.findall(r"([\w-]+)/fedjax_norm\b(?!/)", path.read_text()) for path in paths]
  assert all(found)
  assert len({owner for owners in found for owner in owners}) == 1, found
