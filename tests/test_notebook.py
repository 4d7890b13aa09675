"""The notebook, executed from top to bottom in a kernel of its own."""

import importlib.util
import pathlib
import sys
import types
import zipfile

import pytest

from tests import tiny_run

_ROOT = pathlib.Path(__file__).parents[1]
_NOTEBOOK = _ROOT / "launch" / "colab.ipynb"

nbformat = pytest.importorskip("nbformat", reason="needs the extra `test`")
nbclient = pytest.importorskip("nbclient", reason="needs the extra `test`")
pytest.importorskip("ipykernel", reason="needs the extra `test`")


def _flatten(config, prefix=""):
  for name, value in config.items():
    if hasattr(value, "items"):
      yield from _flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _tiny_settings(data):
  settings = dict(_flatten(tiny_run.config(data)))
  return settings | {
    "seeds": (0,),
    "teacher.fit.num_steps": 4,
    "student.fit.num_steps": 2,
    "distill.num_steps": 3,
  }


@pytest.fixture
def notebook(tmp_path):
  """The notebook with parameters of a run that takes seconds."""
  (tmp_path / "data").mkdir()
  tiny_run.write_data(tmp_path / "data")
  notebook = nbformat.read(_NOTEBOOK, as_version=4)
  (cell,) = (
    c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())
  )
  values = {
    "REPOSITORY": "",
    "WORKDIR": str(tmp_path / "workdir"),
    "SETTINGS": _tiny_settings(tmp_path / "data"),
  }
  for name in values:
    assert f"\n{name} = " in "\n" + cell.source
  cell.source = "\n".join(f"{k} = {v!r}" for k, v in values.items())
  return notebook


def _displayed(notebook):
  """What the cells displayed, as (MIME type, content)."""
  for cell in notebook.cells:
    for output in cell.get("outputs", ()):
      yield from output.get("data", {}).items()
      if output.output_type == "stream" and output.name == "stdout":
        yield "stdout", output.text


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  nbclient.NotebookClient(
    notebook,
    timeout=900,
    kernel_name="python3",
    resources={"metadata": {"path": str(_ROOT)}},
  ).execute()
  shown = list(_displayed(notebook))
  kinds = [kind for kind, _ in shown]
  pictures = list((tmp_path / "workdir").glob("*.png"))
  assert kinds.count("image/png") == len(pictures) > 1
  (frame,) = (text for kind, text in shown if kind == "text/html")
  assert frame.startswith("<iframe srcdoc=")
  printed = "".join(text for kind, text in shown if kind == "stdout")
  for name in ("teacher ", "student ", "export "):
    assert f"\n{name}" in "\n" + printed
  with zipfile.ZipFile(tmp_path / "workdir" / "export.zip") as archive:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(
      archive.namelist()
    )
  report = (tmp_path / "workdir" / "report.md").read_text("utf-8")
  assert "--config=configs/wmt.py" in report  # Not the kernel's arguments.


@pytest.fixture
def install(monkeypatch):
  """Runs the cell that installs, on a machine as told; returns its commands."""
  notebook = nbformat.read(_NOTEBOOK, as_version=4)
  (cell,) = (c for c in notebook.cells if "def pip_install" in c.source)
  found = importlib.util.find_spec

  def run_cell(repository, accelerator, jax_fits):
    commands = []

    def run(command, check):
      commands.append(command)
      keeps_jax = any(word.startswith("jax==") for word in command)
      failed = keeps_jax and not jax_fits
      assert not (failed and check)
      return types.SimpleNamespace(returncode=int(failed))

    def find_spec(name):
      return None if name == "skd_jax" else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("os.chdir", lambda folder: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(
      "shutil.which", lambda name: "/bin/x" if accelerator == "gpu" else None
    )
    monkeypatch.setattr(
      "glob.glob", lambda _: ["/dev/accel0"] if accelerator == "tpu" else []
    )
    exec(cell.source, {"REPOSITORY": repository})
    return commands

  return run_cell


def test_install_keeps_the_jax_of_the_runtime_where_it_fits(install):
  clone, pip = install("https://example.org/it", "tpu", jax_fits=True)
  folder = str(pathlib.Path("skd_jax_checkout").absolute())
  assert clone[:2] == ["git", "clone"]
  assert clone[-2:] == ["https://example.org/it", folder]
  assert pip[1:6] == ["-m", "pip", "install", "--quiet", "--editable"]
  assert pip[6] == folder
  assert pip[7].startswith("jax==")


@pytest.mark.parametrize(
  ("accelerator", "extra"), [("gpu", "[cuda]"), ("tpu", "[tpu]"), ("", "")]
)
def test_install_brings_a_jax_of_the_accelerator(install, accelerator, extra):
  *_, pip = install("https://example.org/it", accelerator, jax_fits=False)
  folder = pathlib.Path("skd_jax_checkout").absolute()
  assert pip[-1] == f"{folder}{extra}"


def test_install_without_an_address_says_what_to_set(install):
  with pytest.raises(ValueError, match="REPOSITORY is empty"):
    install("", "", jax_fits=True)


def test_notebook_is_kept_without_outputs():
  notebook = nbformat.read(_NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      assert not cell.outputs
      assert cell.execution_count is None
