"""The report of a study: what is on the page, and that it works in a browser without a network."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.contenders import contender, tuning

from fedjax_norm.study.advice.recommendation import recommend, verdict_text
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.report.page import pictures, write
from fedjax_norm.study.report.tables import ranked_table

NASTY = '<script>alert("1")</script> & <b>'
VOID = {"meta", "link", "img"}
HOSPITALS = {"St. Mary": 0.95, "Charité": 0.9, NASTY: 0.7}
CONTENDERS = [
  contender(
    "gn, fedavg, 10 local steps",
    [0.93, 0.94, 0.95],
    10_000_000,
    tuning=tuning({0.01: 0.8, 0.1: 0.9, 1: None}),
    clients=HOSPITALS,
    unseen={"Far": 0.6},
    recalls={"cat": 0.9, NASTY: 0.4},
  ),
  contender("bn, fedavg, 10 local steps", [0.8, 0.7, 0.75], 1_000_000, clients=HOSPITALS),
  contender("bn, fedavg, 1 local steps", [0.6, 0.65, 0.61], 300_000, single_model=False),
  contender("fixbn, fedavg, 1 local steps", [], state="diverged", reason=f"it diverged {NASTY}"),
]


class Page(HTMLParser):
  """Reads a page, and refuses tags that are not closed in order."""

  def __init__(self, text: str):
    super().__init__()
    self.open: list[str] = []
    self.tags: list[tuple[str, dict[str, str | None]]] = []
    self.words = ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not set(self.open) & {"script", "style"}:
      self.words += data

  def attributes(self, name: str) -> list[str]:
    return [found[name] or "" for _, found in self.tags if name in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  recommendation = recommend(CONTENDERS, Criterion())
  path = write(folder, CONTENDERS, recommendation, f"Title {NASTY}", {"effort": "9 steps"})
  assert path == folder / "report.html"
  return folder


@pytest.fixture(scope="module")
def page(folder):
  return Page((folder / "report.html").read_text())


def test_the_page_needs_nothing_from_elsewhere(page):
  references = page.attributes("src") + page.attributes("href")
  assert references
  assert all(text.startswith(("data:", "#")) for text in references)
  assert [tag for tag, _ in page.tags].count("script") == 1
  assert not {"b", "iframe", "object"} & {tag for tag, _ in page.tags}
  for text in (f"Title {NASTY}", f"it diverged {NASTY}"):
    assert text in page.words


def test_the_page_has_the_answer_the_table_the_failures_and_the_commands(page):
  conclusion = recommend(CONTENDERS, Criterion()).conclusions[0]
  sentences = [conclusion.summary, *conclusion.limits, *conclusion.next_steps, *conclusion.remarks]
  for answer in conclusion.answers:
    sentences += [answer.question, *answer.sentences]
  for text in sentences:
    assert text in page.words
  assert {one.command for one in CONTENDERS} == set(page.attributes("data-copy"))
  for text in (
    "94.00% ± 1.00%",
    "10.0 MB",
    "0.1 (0.01)",
    "9 steps",
    "fixbn, fedavg, 1 local steps",
  ):
    assert text in page.words


def test_the_page_opens_with_the_short_answer(page):
  conclusion = recommend(CONTENDERS, Criterion()).conclusions[0]
  lines = [conclusion.summary, *(f"{a.question} {verdict_text(a)}" for a in conclusion.answers)]
  lines.insert(2, "Which algorithm? Not compared: all contenders have fedavg.")
  start = page.words.index(conclusion.summary)
  assert page.words[start:].startswith("".join(lines))
  assert start < page.words.index("Evidence") < page.words.index(conclusion.answers[0].sentences[0])


def test_columns_are_explained_if_they_are_there(page):
  assert "one model serves all clients" in page.words
  assert "the client with the lowest one" in page.words
  table = ranked_table([contender("gn, fedavg", [0.5])], Criterion())
  assert "one model serves all clients" in table
  assert "the client with the lowest one" not in table


def test_clients_and_classes_have_tables_too(page):
  assert page.words.count("The same as a table") == 2
  assert "contenderCharitéSt. Mary" in page.words.replace(NASTY, "")
  assert "In the best round by validation, as means over the seeds" in page.words


def test_one_seed_has_no_deviation():
  [picture] = [
    p for p in pictures([contender("gn, fedavg", [0.5])], Criterion()) if p.name == "curves"
  ]
  axes = picture.figure.axes[-1]
  assert [t.get_text() for t in axes.texts if t.get_text()] == ["gn, fedavg 50.0%"]
  assert not axes.collections


def test_clients_without_a_name_are_not_averaged_over_seeds():
  one = contender("gn, fedavg", [0.5, 0.5], clients={"A": 0.9, "B": 0.1})
  swapped = {0: 0.1, 1: 0.9}
  for run in one.runs:
    assert run.evaluation
    run.evaluation["clients"] = [
      {**client, "name": None, "top1": client["top1"] if run.seed else swapped[client["id"]]}
      for client in run.evaluation["clients"]
    ]
  [picture] = [p for p in pictures([one], Criterion()) if p.name == "clients"]
  axes = picture.figure.axes[0]
  assert [text.get_text() for text in axes.texts] == ["10", "90", "90", "10"]
  names = [tick.get_text() for tick in axes.get_xticklabels()]
  assert names == [f"client {i}, seed {seed}" for seed in (0, 1) for i in (0, 1)]
  assert "means" not in picture.caption


def test_the_search_has_the_measure_of_its_values():
  run = {"tuning": tuning({0.1: 0.9, 1: 0.8}), "values": {"best_auroc": 0.7, "auroc": 0.7}}
  found = pictures([contender("gn, fedavg", [0.5], **run)], Criterion("auroc"))
  [picture] = [p for p in found if p.name == "search"]
  assert picture.figure.get_supylabel() == "validation, top-1"


def test_pictures_of_an_earlier_report_go_and_other_files_stay(folder, tmp_path):
  for file in (*folder.glob("*.png"), folder / "report.html"):
    shutil.copy(file, tmp_path)
  shutil.copy(folder / "recall.png", tmp_path / "recall_2_iid.png")
  shutil.copy(folder / "recall.png", tmp_path / "recall of mine.png")
  one = [contender("gn, fedavg", [0.5])]
  write(tmp_path, one, recommend(one, Criterion()), "t", {})
  names = {"curves.png", "pareto.png", "recall of mine.png", "report.html"}
  assert {file.name for file in tmp_path.iterdir()} == names


def test_the_pictures_are_on_the_page_and_in_the_folder(folder, page):
  files = sorted(folder.glob("*.png"))
  names = ["clients", "confusion", "curves", "pareto", "recall", "search"]
  assert [file.stem for file in files] == names
  shown = [s.removeprefix("data:image/png;base64,") for s in page.attributes("src")]
  assert sorted(base64.b64decode(s) for s in shown) == sorted(file.read_bytes() for file in files)


def test_a_client_keeps_its_column_whichever_clients_train():
  clients, unseen = dict.fromkeys("AB", 0.5), {"C": 0.4}
  first = contender("gn, fedavg", [0.5], clients=clients, unseen=unseen)
  second = contender("gn, fedavg", [0.5], clients={"C": 0.6, "B": 0.7}, unseen={"A": 0.3})
  both = first._replace(runs=(*first.runs, second.runs[0]._replace(seed=1)))
  [picture] = [p for p in pictures([both], Criterion()) if p.name == "clients"]
  axes = picture.figure.axes[0]
  assert [tick.get_text() for tick in axes.get_xticklabels()] == [
    *"ABC",
    "A (unseen)",
    "C (unseen)",
  ]
  assert [text.get_text() for text in axes.texts] == ["50", "60", "60", "30", "40"]


def test_settings_are_not_mixed_and_have_pictures_of_their_own(tmp_path):
  many = [
    contender(f"{norm}, fedavg", [score], setting=setting)
    for setting in ("iid", "dirichlet: alpha=0.1")
    for norm, score in (("gn", 0.5), ("bn", 0.4))
  ]
  page = Page(write(tmp_path, many, recommend(many, Criterion()), "t", {}).read_text())
  assert [one for one in page.attributes("href") if one != "data:,"] == ["#setting-1", "#setting-2"]
  assert {"setting-1", "setting-2"} <= set(page.attributes("id"))
  suffixes = ("1_iid", "2_dirichlet_alpha=0.1")
  expected = {f"{name}_{suffix}" for name in ("pareto", "curves") for suffix in suffixes}
  assert {file.stem for file in tmp_path.glob("*.png")} == expected


def test_a_study_without_results_has_a_report(tmp_path):
  lost = [contender("gn, fedavg", [], state="pending"), CONTENDERS[-1]]
  page = Page(write(tmp_path, lost, recommend(lost, Criterion()), "t", {}).read_text())
  assert "No contender has a result." in page.words
  assert "Not compared" not in page.words
  assert f"diverged; it diverged {NASTY}" in page.words
  assert not list(tmp_path.glob("*.png"))


PROBE = """
<script>
const ranking = document.querySelector("table.sortable");
const head = name => [...ranking.querySelectorAll("th")]
  .find(th => th.textContent.startsWith(name)).firstElementChild;
const names = () => [...ranking.tBodies[0].rows].map(row => row.cells[1].textContent);
const found = {};
head("bytes").click(); found.up = names();
head("bytes").click(); found.down = names();
head("contender").click(); found.text = names();
const [first, second] = document.querySelectorAll("button.copy");
const use = writeText => Object.defineProperty(navigator, "clipboard",
  {configurable: true, value: {writeText}});
use(text => { found.copied = text; return Promise.resolve(); });
first.click();
use(() => Promise.reject(new Error("forbidden")));
document.execCommand = () => false;
second.click();
found.resources = performance.getEntriesByType("resource").map(entry => entry.name)
  .filter(name => !name.startsWith("data:"));
new Image().src = "http://127.0.0.1:9/forbidden.png";  // the page itself forbids this request
setTimeout(() => {
  found.buttons = [first.textContent, second.textContent];
  document.body.innerHTML = "";
  document.body.append("FOUND" + JSON.stringify(found) + "END");
}, 300);
</script>
"""


def browser() -> str | None:
  """Returns a Chromium: an installed one, or that of playwright."""
  names = ("chromium", "chromium-browser", "google-chrome", "chrome")
  installed = next(filter(None, map(shutil.which, names)), None)
  own = sorted(Path.home().glob(".cache/ms-playwright/chromium*/chrome-linux*/*"))
  return installed or next((str(p) for p in own if p.name in ("chrome", "headless_shell")), None)


def test_the_page_works_in_a_browser(folder, tmp_path):
  program = browser()
  if program is None:
    pytest.skip("needs Chromium (Debian: apt-get install chromium), which is not installed")
  copy = tmp_path / "probed.html"
  copy.write_text((folder / "report.html").read_text().replace("</body>", f"{PROBE}</body>"))
  flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
  flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
  flags += ["--virtual-time-budget=3000", "--dump-dom", copy.as_uri()]
  done = subprocess.run([program, *flags], capture_output=True, text=True, timeout=120, check=True)
  match = re.search("FOUND(.*)END", done.stdout)
  assert match, done.stderr
  found = json.loads(match[1])
  gn, bn10, bn1, lost = (one.name for one in CONTENDERS)
  assert found["up"] == [bn1, bn10, gn, lost]  # by the number, what is missing last
  assert found["down"] == [gn, bn10, bn1, lost]
  assert found["text"] == [bn1, bn10, lost, gn]
  assert found["copied"] == CONTENDERS[1].command
  assert found["buttons"] == ["copied", "not copied; see Commands below"]
  assert found["resources"] == []
  # The only message of the console is about the request that the test made.
  messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
  assert len(messages) == 1, messages
  assert "forbidden.png" in messages[0]
