"""Weights & Biases gets what TensorBoard gets; here offline."""

import functools
import importlib.metadata
import json
import sys
from unittest import mock

import pytest

from skd_jax.reporting import boards, metric_log, wandb_board

_ENTRIES = {
  "loss": 0.5,
  "samples": boards.Texts(("prompt", "answer"), [("a|b", "c")]),
  "length": boards.Histogram((0, 1, 2, 4), (1, 0, 2.5)),
}


@pytest.fixture
def offline(monkeypatch):
  pytest.importorskip("wandb", reason="needs the extra `wandb`")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")


def write(workdir, steps, **options):
  open_board = functools.partial(
    wandb_board.WandbBoard, project="p", config={"seed": 7}
  )
  with metric_log.open_metric_log(
    workdir, stage="distill", seed=0, open_boards=[open_board], **options
  ) as log:
    for step in steps:
      log(step, _ENTRIES)


def records(workdir):
  """The W&B runs of a workdir in their order: (id, folder)."""
  folders = sorted((workdir / "wandb").glob("offline-run-*"))
  return [(folder.name.rpartition("-")[2], folder) for folder in folders]


def test_offline_run_holds_numbers_texts_and_histograms(offline, tmp_path):
  write(tmp_path, [10])
  ((run_id, folder),) = records(tmp_path)
  data = (folder / f"run-{run_id}.wandb").read_bytes()
  for name in (b"loss", b"length", b"histogram"):
    assert name in data
  (table,) = (folder / "files" / "media" / "table").iterdir()
  assert json.loads(table.read_text()) == {
    "columns": ["prompt", "answer"],
    "data": [["a|b", "c"]],
  }


def test_resumed_stage_goes_on_in_its_run_and_a_new_one_has_its_own(
  offline, tmp_path, monkeypatch
):
  given = []
  import wandb

  init = wandb.init

  def watched(**arguments):
    given.append(arguments)
    return init(**arguments)

  monkeypatch.setattr(wandb, "init", watched)
  write(tmp_path, [10])
  write(tmp_path, [20], last_step=10)
  write(tmp_path, [10])
  first, resumed, anew = (arguments["id"] for arguments in given)
  assert first == resumed != anew
  assert given[0]["config"] == {"seed": 7}
  assert given[0]["project"] == "p"
  assert given[0]["name"].endswith("/distill/seed_0")


@pytest.mark.parametrize("folder", ["run", "runs/run/seed_0"])
def test_run_of_a_comparison_is_named_after_its_arm(
  tmp_path, monkeypatch, folder
):
  fake = mock.Mock(Error=RuntimeError)
  monkeypatch.setitem(sys.modules, "wandb", fake)
  write(tmp_path / folder, [10])
  given = fake.init.call_args.kwargs
  assert (given["name"], given["group"]) == ("run/distill/seed_0", "run")


def test_missing_package_is_one_line_that_names_the_extra(monkeypatch):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "version", missing)
  with pytest.raises(ValueError) as caught:
    wandb_board.check_installed()
  assert str(caught.value) == (
    "needs the package wandb: pip install 'skd_jax[wandb]'"
  )
