"""README and docs: every snippet runs, every command and link is real."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = [
  *(_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "llms.txt")),
  *sorted((_ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(
  r"^(?:<!-- needs: (\w+) -->\n)?```(sh|python)\n(.*?)^```$", re.M | re.S
)
_MODULE = re.compile(
  r"(?:-m |run\.sh |-- |slurm\.sh )((?:skd_jax|benchmarks)[\w.]*)"
)

_ANY = "benchmarks.speed.NAME"  # Stands for each of them.


def _name(path):
  return str(path.relative_to(_ROOT))


def _blocks(language):
  """(page, what it needs, text) of each block of a language."""
  return [
    (page, needs, text)
    for page in _PAGES
    for needs, found, text in _BLOCK.findall(page.read_text("utf-8"))
    if found == language
  ]


def _commands():
  """(page, command line) in blocks of sh and in `code` that runs a module."""
  found = []
  for page in _PAGES:
    text = page.read_text("utf-8")
    lines = [
      line
      for _, language, block in _BLOCK.findall(text)
      if language == "sh"
      for line in block.replace("\\\n", " ").splitlines()
    ]
    # What was measured at a commit has the command of that commit.
    lines += re.findall(
      r"`([^`\n]*-m (?:skd_jax|benchmarks)[^`\n]*)`(?! at\s+commit|\nat)", text
    )
    found += [(page, line) for line in lines if _MODULE.search(line)]
  return found


def test_readme_is_one_page():
  text = (_ROOT / "README.md").read_text("utf-8")
  assert text.count("\n") <= 150
  assert len(text) <= 12_000


@pytest.mark.parametrize(
  "page", sorted({page for page, _, _ in _blocks("python")}), ids=_name
)
def test_python_of_a_page_runs(page, monkeypatch):
  monkeypatch.chdir(_ROOT)
  namespace = {}
  for found, needs, text in _blocks("python"):
    if found == page and not needs:
      exec(compile(text, _name(page), "exec"), namespace)


@pytest.mark.slow
def test_task_of_one_file_runs(tmp_path):
  (text,) = [t for _, _, t in _blocks("python") if "def get_config" in t]
  assert text.count("\n") < 30
  (tmp_path / "capitals.py").write_text(text, encoding="utf-8")
  for split, count in (("train", 24), ("test", 8)):
    rows = [{"land": f"land {i}", "city": f"city {i}"} for i in range(count)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
  small = [
    f"--config.{model}.{field}={value}"
    for model in ("teacher", "student")
    for field, value in (
      ("hidden_size", 16),
      ("num_layers", 1),
      ("fit.num_steps", 4),
      ("fit.batch_size", 8),
    )
  ]
  arguments = [
    f"--config={tmp_path / 'capitals.py'}",
    f"--config.data.dir={tmp_path}",
    f"--workdir={tmp_path / 'workdir'}",
    "--config.tokenizer.vocab_size=300",
    "--config.distill.num_steps=4",
    "--config.distill.batch_size=8",
    *small,
  ]
  subprocess.run(
    [sys.executable, "-m", "skd_jax.main", *arguments],
    cwd=_ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=True,
  )
  report = json.loads((tmp_path / "workdir" / "report.json").read_text())
  assert set(report["signature"]) == {"rougeL", "chrf"}


@pytest.mark.parametrize(
  ("page", "text"),
  [(page, text) for page, needs, text in _blocks("sh") if not needs],
  ids=lambda value: _name(value) if isinstance(value, pathlib.Path) else "",
)
def test_shell_of_a_page_runs(page, text):
  folder = pathlib.Path(sys.executable).parent
  environment = {
    **os.environ,
    "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    "VENV": str(folder.parent),
  }
  subprocess.run(
    ["bash", "-euo", "pipefail", "-c", text],
    cwd=_ROOT,
    env=environment,
    check=True,
    timeout=300,
  )


@pytest.mark.parametrize(
  "module",
  [
    pytest.param(
      module,
      marks=pytest.mark.slow if module.startswith("benchmarks.") else (),
    )
    for module in sorted({_MODULE.search(line)[1] for _, line in _commands()})
    if module != _ANY
  ],
)
def test_documented_flags_of_a_module_exist(module):
  if module.startswith("benchmarks.tpu"):
    pytest.importorskip("libtpu", reason="needs the extra `tpu-plan`")
  assert importlib.util.find_spec(module)
  help_text = subprocess.run(
    [sys.executable, "-m", module, "--helpfull"],
    cwd=_ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  ).stdout
  for page, line in _commands():
    if _MODULE.search(line)[1] != module:
      continue
    arguments = line[_MODULE.search(line).end() :]
    for flag in re.findall(r"--(?:no)?([a-z_]+)(?=[= ]|$)", arguments):
      assert re.search(rf"--(\[no\])?{flag}\b", help_text), (_name(page), line)


def test_documented_settings_exist():
  from skd_jax.config import default_config, get

  config = default_config()
  for page in _PAGES:
    for field in re.findall(r"--config\.([a-z_.]+)=", page.read_text("utf-8")):
      get(config, field)


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_of_a_page_lead_to_files(page):
  text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
  for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
    assert (page.parent / target).exists(), target


def test_diff_of_the_smallest_family_is_its_file():
  text = (_ROOT / "CONTRIBUTING.md").read_text("utf-8")
  (diff,) = re.findall(r"^```diff\n(.*?)^```$", text, re.M | re.S)
  *_, name, added = re.split(r"^ (.+)\n", diff, flags=re.M)
  lines = [line.removeprefix("+") for line in added.splitlines(keepends=True)]
  assert "".join(lines) == (_ROOT / name).read_text("utf-8")


def test_tables_of_methods_and_rules_are_those_of_the_code():
  path = _ROOT / "docs" / "table_checks.py"
  spec = importlib.util.spec_from_file_location("table_checks", path)
  checks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(checks)
  page = (_ROOT / "docs" / "methods.md").read_text("utf-8")
  assert checks.problems(page) == []
  wrong = page.replace("`rollout.leg_length=4`", "`rollout.leg_length=5`")
  assert len(checks.problems(wrong)) == 2  # Of leg and leg_to_zero.


@pytest.mark.slow
def test_docs_build_without_a_warning(tmp_path):
  pytest.importorskip("sphinx", reason="needs the extra `docs`")
  result = subprocess.run(
    [sys.executable, "-m", "sphinx", "-q", "-W", "docs", str(tmp_path)],
    cwd=_ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
