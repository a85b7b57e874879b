"""The package's layers import downwards only, and only its outer ones touch the outside world."""

import ast
from pathlib import Path

import pytest

import fedjax_norm

ROOT = Path(fedjax_norm.__file__).parent
MODULES = sorted(
  path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"
)  # the public names at the top import from everywhere

# A module may import its own layer and those above it in this list, not its neighbours in a row.
LAYERS = (
  ("typing", "errors", "number_parsing", "invocation"),
  ("options",),
  ("tree_leaves", "random_keys", "objectives", "host_memory"),
  ("norm",),
  ("ops",),
  ("models",),
  ("data", "client_mapping"),
  ("local_training",),
  ("algorithms", "evaluation"),
  ("split",),
  ("algorithms.registry",),
  ("control",),
  ("training.terminal",),
  ("training.placement",),
  ("training.storage",),
  ("training.task",),
  ("training.config",),
  ("training",),
  ("plots",),
  ("wire.protocol",),
  ("wire.server",),
  ("wire.client",),
  ("presets",),
  ("cli",),
  ("study",),
  ("study.planning", "study.advice"),
  ("study.results",),
  ("study.running",),
  ("study.report",),
  ("study.answer",),
  ("papers",),
  ("wire", "cli.wire"),
  ("cli.commands",),
  ("cli.console",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# The modules of the extra ``wire`` that work without its packages, and check for them.
CHECKS = ("wire/protocol/required_packages.py", "cli/wire/options.py", "cli/wire/launch.py")

# The layers and modules that may write files, print and log.
OUTER = ("training/", "wire/", "plots/", "cli/", "study/", "data/archives/")
# os.replace and shutil.move write, str.replace and NamedTuple._replace do not: these names write
# whatever they are called on, and those of os and shutil only there.
WRITING_METHODS = frozenset(
  [
    "write",
    "write_text",
    "write_bytes",
    "writelines",
    "mkdir",
    "rmdir",
    "unlink",
    "touch",
    "symlink_to",
    "hardlink_to",
    "save",
    "savez",
    "savez_compressed",
    "savetxt",
    "tofile",
    "dump",
    "savefig",
    "print_figure",
    "download_and_prepare",
  ]
)
WRITING_FUNCTIONS = {
  "os": frozenset(
    [
      "remove",
      "rename",
      "renames",
      "replace",
      "makedirs",
      "removedirs",
      "truncate",
      "link",
      "symlink",
    ]
  ),
  "shutil": frozenset(["rmtree", "move", "copy", "copy2", "copyfile", "copytree"]),
}


def relative(path: Path) -> str:
  return path.relative_to(ROOT).as_posix()


def layer(name: str) -> str:
  """'fedjax_norm.data.npz' and 'data/npz.py' are in 'data', the longest name in ``LAYERS``."""
  name = name.removeprefix("fedjax_norm.").removesuffix(".py").removesuffix("/__init__")
  name = name.replace("/", ".")
  while name not in RANK and "." in name:
    name = name.rpartition(".")[0]
  return name


def package_imports(tree: ast.AST) -> list[str]:
  """The modules of the package that a module imports, wherever in its text."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "imports are absolute"
      if node.module == "fedjax_norm":
        found += [f"fedjax_norm.{alias.name}" for alias in node.names]
      elif node.module:
        found.append(node.module)
  return [name for name in found if name.split(".")[0] == "fedjax_norm"]


def upward(path: str, tree: ast.AST) -> list[str]:
  """The imports that a module must not have."""
  own = layer(path)
  return [
    name
    for name in package_imports(tree)
    if layer(name) not in RANK or not (layer(name) == own or RANK[layer(name)] < RANK[own])
  ]


def needs_extra(tree: ast.AST) -> list[str]:
  """The imports that need the packages of the extra ``wire``."""
  found = package_imports(tree)
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
  checks = tuple(f"fedjax_norm.{path.removesuffix('.py').replace('/', '.')}" for path in CHECKS)
  extra = ("grpc", "cryptography", "fedjax_norm.wire", "fedjax_norm.cli.wire")
  return [name for name in found if name.startswith(extra) and not name.startswith(checks)]


def side_effects(tree: ast.AST) -> list[str]:
  """What a module does to files, the terminal or a log, as 'line: what'."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = [alias.name for alias in node.names]
      names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
      if any("logging" in name for name in names):
        found.append(f"{node.lineno}: logging")
    if not isinstance(node, ast.Call):
      continue
    function = node.func
    if isinstance(function, ast.Name):
      if function.id == "print" or (function.id == "open" and _writes(node, position=1)):
        found.append(f"{node.lineno}: {function.id}")
    elif isinstance(function, ast.Attribute):
      owner = function.value.id if isinstance(function.value, ast.Name) else ""
      writes = function.attr in WRITING_METHODS
      writes |= function.attr in WRITING_FUNCTIONS.get(owner, ())
      writes |= function.attr == "open" and owner != "Image" and _writes(node, position=0)
      if writes:
        found.append(f"{node.lineno}: {owner}.{function.attr}")
  return found


def _writes(call: ast.Call, position: int) -> bool:
  """Whether a call of open has a mode that writes, or one that cannot be told."""
  modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
  modes += call.args[position : position + 1]
  return any(
    not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+")) for mode in modes
  )


def parse(path: Path) -> ast.AST:
  return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_down_the_layers(path):
  assert layer(relative(path)) in RANK, "give the new module its place in LAYERS"
  assert not upward(relative(path), parse(path))


@pytest.mark.parametrize(
  "path", [p for p in MODULES if not relative(p).startswith(OUTER)], ids=relative
)
def test_inner_layers_have_no_side_effects(path):
  assert not side_effects(parse(path))


@pytest.mark.parametrize(
  "path",
  [
    p
    for p in MODULES
    if relative(p) in CHECKS or not relative(p).startswith(("wire/", "cli/wire/"))
  ],
  ids=relative,
)
def test_only_the_wire_needs_its_extra(path):
  assert not needs_extra(parse(path))


def test_what_imports_pytorch_is_imported_late():
  """tensorboardX imports PyTorch where it is installed: not before a wrong flag is reported."""
  late = []
  for path in MODULES:
    for node in parse(path).body:
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
      assert not any(name.split(".")[0] == "tensorboardX" for name in names), path
    late += [path] if "from tensorboardX" in path.read_text() else []
  assert [relative(path) for path in late] == ["training/storage/tensorboard.py"]


def test_the_check_sees_the_packages_of_the_extra():
  for text in ("import grpc", "from cryptography import x509", "from fedjax_norm.cli import wire"):
    assert needs_extra(ast.parse(text))
  assert needs_extra(parse(ROOT / "cli/wire/server.py"))


@pytest.mark.parametrize(
  ("path", "text", "refused"),
  [
    ("norm/normalize.py", "from fedjax_norm import models", True),
    ("data/sources/npz.py", "from fedjax_norm.algorithms.costs.ledger import Cost", True),
    ("local_training/config.py", "def f():\n  import fedjax_norm.algorithms.contract", True),
    ("ops/conv.py", "from fedjax_norm import conv", True),  # a public name, not a layer
    ("algorithms/fedavg.py", "from fedjax_norm import tree_leaves", False),
    ("data/sources/npz.py", "from fedjax_norm.data import examples", False),
  ],
)
def test_the_check_sees_an_upward_import(path, text, refused):
  assert bool(upward(path, ast.parse(text))) == refused


@pytest.mark.parametrize(
  ("text", "seen"),
  [
    ("print(1)", True),
    ("open(path, 'wb')", True),
    ("path.open(mode='a')", True),
    ("open(path, mode)", True),
    ("Path(p).write_text('x')", True),
    ("os.replace(a, b)", True),
    ("np.savez(p, a)", True),
    ("from absl import logging", True),
    ("open(path)", False),
    ("open(path, 'rb')", False),
    ("text.replace('a', 'b')", False),
    ("state._replace(a=1)", False),
  ],
)
def test_the_check_sees_a_side_effect(text, seen):
  assert bool(side_effects(ast.parse(text))) == seen


def test_outer_layers_do_have_side_effects():
  # else the check would pass on a package that it cannot read
  found = {relative(p) for p in MODULES if side_effects(parse(p))}
  assert "data/archives/builder.py" in found
  assert any(name.startswith("training/") for name in found)
