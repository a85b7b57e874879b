"""The report of a study or a comparison: a page that opens without a network, and its pictures."""

import os
import platform
import re
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fedjax_norm.plots import base
from fedjax_norm.study import ranking
from fedjax_norm.study.advice import factors
from fedjax_norm.study.advice.recommendation import (
  HOW_MUCH,
  Conclusion,
  Recommendation,
  verdict_text,
)
from fedjax_norm.study.advice.wording import criterion_text
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.report import markup
from fedjax_norm.study.report.markup import Html, element
from fedjax_norm.study.report.pictures import NAMES, pictures
from fedjax_norm.study.report.tables import class_table, client_table, full_table, ranked_table
from fedjax_norm.training.storage import provenance
from fedjax_norm.training.storage.atomic_files import read_json, write_atomic
from fedjax_norm.training.storage.run_folder import CONFIG

REPORT = "report.html"

_NUMBERS = {"clients": client_table, "recall": class_table}  # name of a picture -> its table


def write(
  folder: Path,
  contenders: Sequence[Contender],
  recommendation: Recommendation,
  title: str,
  how: Mapping[str, str],
) -> Path:
  """Writes ``report.html``, which contains its pictures, and each picture as a PNG file.

  Args:
    folder: an existing folder; files of an earlier report are replaced.
    contenders: the contenders of all settings.
    recommendation: the answer in words, and how contenders are ranked.
    title: title of the page.
    how: how the runs were made, as name -> text, such as the effort and the search for the rates.

  Returns:
    The path of ``report.html``.
  """
  settings = ranking.by_setting(contenders)
  criterion = recommendation.criterion
  several = len(settings) > 1
  made, options = _made(contenders)
  parts: list[str] = [element("h1", title)]
  for number, conclusion in enumerate(recommendation.conclusions, 1):
    link = element("a", conclusion.setting, href=f"#setting-{number}")
    lines = [*([element("h2", link)] if several else []), *_short(conclusion, settings)]
    parts.append(element("div", *lines, class_="answer"))
  parts += [_facts(made), element("p", criterion_text(criterion))]
  written = set()
  for number, conclusion in enumerate(recommendation.conclusions, 1):
    members = settings[conclusion.setting]
    anchor = f"setting-{number}"
    heading = f"Setting: {conclusion.setting}" if several else "Evidence"
    parts += [element("h2", heading, id=anchor), *_evidence(conclusion)]
    parts += [element("h3", "Ranking"), ranked_table(members, criterion)]
    parts.append(markup.details("All figures", full_table(members, criterion)))
    suffix = f"_{number}_{_slug(conclusion.setting)}" if several else ""
    for picture in pictures(members, criterion):
      file = folder / f"{picture.name}{suffix}.png"
      base.save(picture.figure, file)
      written.add(file)
      image = markup.picture(file.read_bytes(), picture.heading)
      caption = element("figcaption", picture.caption)
      parts += [element("h3", picture.heading), element("figure", image, caption)]
      if make := _NUMBERS.get(picture.name):
        parts.append(markup.details("The same as a table", make(members, criterion)))
  parts += [element("h2", "How it was done"), markup.pairs(how)]
  if options:
    parts.append(markup.details("Options of all runs", element("p", element("code", options))))
  parts.append(_commands(contenders))
  page = _template().substitute(title=markup.join([title]), body=markup.join(parts))
  write_atomic(folder / REPORT, page.encode())
  for file in set(folder.glob("*.png")) - written:
    if re.fullmatch(rf"({'|'.join(NAMES)})(_\d+_.*)?", file.stem):
      file.unlink()  # of an earlier report
  return folder / REPORT


def _template() -> string.Template:
  file = resources.files("fedjax_norm.study.report") / "template.html"
  return string.Template(file.read_text(encoding="utf-8"))


def _short(conclusion: Conclusion, settings: Mapping[str, Sequence[Contender]]) -> list[Html]:
  """Returns the answer in a few lines: the best contender, and a verdict on each question."""
  lines = [element("p", conclusion.summary, class_="summary")]
  if conclusion.best is None:
    return lines
  answers = {answer.question: answer for answer in conclusion.answers}
  members = settings[conclusion.setting]
  for question, same in (
    ("Which norm?", f"all contenders have {factors.norm(members[0])}"),
    ("Which algorithm?", f"all contenders have {factors.algorithm(members[0])}"),
    (HOW_MUCH, "all contenders with a result send about the same"),
  ):
    answer = answers.get(question)
    verdict = element("strong", verdict_text(answer), class_=answer.verdict) if answer else ""
    lines.append(element("p", f"{question} ", verdict or f"Not compared: {same}."))
  return lines


def _evidence(conclusion: Conclusion) -> list[Html]:
  """Returns the evidence for the verdicts, further facts, the limits and the next steps."""
  parts = []
  for heading, sentences in (
    *((f"{one.question} {verdict_text(one)}", one.sentences) for one in conclusion.answers),
    ("Also", conclusion.remarks),
    ("What this cannot tell", conclusion.limits),
    ("What to run next", conclusion.next_steps),
  ):
    if sentences:
      parts += [element("h3", heading), markup.items(sentences)]
  return parts


def full_names(contenders: Sequence[Contender]) -> list[str]:
  """Returns names that are unique in all settings: with the setting, if there are several."""
  several = len({one.setting for one in contenders}) > 1
  return [f"{one.name} ({one.setting})" if several else one.name for one in contenders]


def _commands(contenders: Sequence[Contender]) -> Html:
  """Returns the command of each contender, to copy."""
  commands = {
    name: one.command
    for name, one in zip(full_names(contenders), contenders, strict=True)
    if one.command
  }
  if not commands:
    return Html()
  lines = (
    element("li", f"{name} ", markup.copy_button(command), " ", element("code", command))
    for name, command in commands.items()
  )
  what = "Each command repeats a contender's final runs, to the last bit on the same machine's CPU."
  return markup.details("Commands", element("p", what), element("ul", *lines))


def _made(contenders: Sequence[Contender]) -> tuple[dict[str, str], str]:
  """Returns by what the runs were made, and the options that all of them share."""
  configs = [
    read_json(one.path / CONFIG)
    for one in contenders
    if one.runs and one.path and (one.path / CONFIG).is_file()
  ]
  entries = [entry for config in configs for entry in config.pop("made_by", [])]
  made = [entry for entry in entries if {"fedjax_norm", "jax", "date"} <= entry.keys()]
  versions = sorted({f"{entry['fedjax_norm']} (JAX {entry['jax']})" for entry in made})
  dates = sorted({entry["date"][:10] for entry in made})
  shared = _shared(configs)
  facts = {
    "Data": str(shared.get("data", "")),
    "Trained": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
    "fedjax_norm": ", ".join(versions) or provenance.version(),
    "Report written on": f"{_processor()}, {os.cpu_count()} cores",
  }
  text = ", ".join(f"{name}={value}" for name, value in sorted(shared.items()))
  return facts, text


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the options that all runs have in common and that are set."""
  first = configs[0] if configs else {}
  return {
    name: value
    for name, value in first.items()
    if name != "format"
    and value not in (None, [])
    and all(name in config and config[name] == value for config in configs)
  }


def _processor() -> str:
  """Returns the name of this machine's processor."""
  file = Path("/proc/cpuinfo")
  text = file.read_text(encoding="utf-8") if file.exists() else ""
  names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
  return names[0] if names else platform.machine()


def _facts(facts: Mapping[str, str]) -> Html:
  text = " · ".join(f"{name}: {value}" for name, value in facts.items() if value)
  return element("p", text, class_="facts")


def _slug(text: str) -> str:
  """Returns a text as part of a file's name."""
  return re.sub(r"[^A-Za-z0-9.=-]+", "_", text)[:50].strip("_.")
