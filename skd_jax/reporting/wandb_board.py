"""Weights & Biases as a board beside TensorBoard; the extra `wandb`.

One W&B run for each stage of each seed, in WORKDIR/wandb. Where it is sent, and
whether at all, W&B decides by its own login and settings.
"""

import importlib
import importlib.metadata
import uuid
from collections.abc import Mapping
from typing import Any

from skd_jax.reporting import boards


def check_installed() -> None:
  """Checks that the package is there; it is not imported.

  Raises:
    ValueError: it is not.
  """
  try:
    # Not find_spec: a folder wandb, as a run leaves one, would count.
    importlib.metadata.version("wandb")
  except importlib.metadata.PackageNotFoundError:
    raise ValueError(
      "needs the package wandb: pip install 'skd_jax[wandb]'"
    ) from None


class WandbBoard:
  """A W&B run; a run that is resumed goes on in the same one."""

  def __init__(
    self, place: boards.Place, *, project: str, config: Mapping[str, Any]
  ):
    """Opens it.

    Args:
      place: what it shows.
      project: of W&B.
      config: the settings that it shows.

    Raises:
      ValueError: W&B refuses, as without a login.
    """
    run = _run_name(place)
    self._wandb: Any = importlib.import_module("wandb")
    try:
      self._run = self._wandb.init(
        project=project,
        config=dict(config),
        dir=str(place.workdir),
        id=_run_id(place),
        resume="allow",
        reinit="create_new",  # Not the run of a caller, if there is one.
        name=f"{run}/{place.stage}/seed_{place.seed}",
        group=run,
        job_type=place.stage,
        settings=self._wandb.Settings(console="off"),
      )
    except self._wandb.Error as error:
      reason = str(error).strip().split("\n")[0]
      raise ValueError(f"wandb, project {project!r}: {reason}") from error
    # W&B drops steps that it has seen. A resumed run gives them once more, and
    # with --continue_with_changes other numbers.
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, entries: Mapping[str, boards.Entry]) -> None:
    """Sends the entries, in the background."""
    shown = {name: self._shown(entry) for name, entry in entries.items()}
    self._run.log({"step": step, **shown})

  def close(self) -> None:
    """Waits until all is sent."""
    self._run.finish()

  def _shown(self, entry: boards.Entry) -> Any:
    if isinstance(entry, boards.Texts):
      rows = [list(row) for row in entry.rows]
      return self._wandb.Table(columns=list(entry.columns), data=rows)
    if isinstance(entry, boards.Histogram):
      pair = (list(entry.counts), list(entry.edges))
      return self._wandb.Histogram(np_histogram=pair)
    return entry


def _run_name(place: boards.Place) -> str:
  """The folder of the run; a comparison has one for each seed of an arm."""
  workdir = place.workdir
  is_of_seed = workdir.name == f"seed_{place.seed}"
  return workdir.parent.name if is_of_seed else workdir.name


def _run_id(place: boards.Place) -> str:
  """The id of the W&B run: a new one where the stage starts."""
  path = place.workdir / "wandb" / f"{place.stage}_seed_{place.seed}.id"
  if place.last_step < 0 or not path.exists():
    path.parent.mkdir(exist_ok=True)
    path.write_text(uuid.uuid4().hex[:8], "utf-8")
  return path.read_text("utf-8")
