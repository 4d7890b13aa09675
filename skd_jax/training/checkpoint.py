"""Orbax checkpoints of the training state and the data position.

A checkpoint holds the student, its optimizer, the step and where the data
iterator stands. The teacher is never saved, nor what is frozen of the student.
Random draws are keyed by the seed and the step, so there is no other random
state.

  checkpoints/NAME/40            the newest whose manifest fits its files
  checkpoints/NAME/60.set_aside  newer, but damaged: not used
  checkpoints/NAME/20/metrics    the score of one that is scored
"""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from skd_jax import structs
from skd_jax.parallel import processes
from skd_jax.reporting import manifest
from skd_jax.training.cadence import Kept

# Orbax writes them after the manifest, and reads nothing in them that decides
# what is restored: without them the state and the position are the same.
_WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")

# Before each further try of a save that has failed: a disk that is full may be
# cleared, a mounted bucket may come back.
RETRY_SECONDS = (5.0, 20.0, 60.0)

_LAST_TWO = Kept()


def folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns where the checkpoints of a stage are."""
  return workdir / "checkpoints" / name


def exist(workdir: pathlib.Path, name: str) -> bool:
  """Whether a stage has a checkpoint."""
  return any(path.name.isdecimal() for path in folder(workdir, name).glob("*"))


def newest_step(workdir: pathlib.Path, name: str) -> int:
  """Returns the step of the newest checkpoint of a stage that has one."""
  names = (path.name for path in folder(workdir, name).glob("*"))
  return max(int(name) for name in names if name.isdecimal())


@contextlib.contextmanager
def open_manager(
  path: str | pathlib.Path, kept: Kept = _LAST_TWO
) -> Iterator[ocp.CheckpointManager]:
  """Opens the checkpoints of one stage; waits for writes when it closes.

  Damaged ones that are newer than a whole one are set aside, with a warning.

  Args:
    path: the folder; made if it is missing.
    kept: which of them are kept.

  Raises:
    ValueError: all are damaged, or the score of one is.
  """
  path = pathlib.Path(path).absolute()

  def write_manifest() -> None:
    for unfinished in _unfinished(path):
      manifest.write(unfinished, leave_out=_WRITTEN_LATER)

  # Orbax calls it in its thread of the first process, once all processes have
  # written and before the rename that makes a checkpoint count. So a kill never
  # leaves one that counts and has no manifest.
  options = ocp.CheckpointManagerOptions(
    preservation_policy=_preservation(kept),
    best_fn=_score if kept.best else None,
    create=True,
    async_options=ocp.AsyncOptions(post_finalization_callback=write_manifest),
  )
  # Before any process lists the folder, so that all see the same newest step.
  processes.on_first(_set_aside_damaged, path)
  if kept.best:
    processes.on_first(_check_scores, path)
  manager = ocp.CheckpointManager(
    path, options=options, item_names=("state", "data")
  )
  try:
    yield manager
  finally:
    manager.wait_until_finished()
    manager.close()


def save(
  manager: ocp.CheckpointManager,
  state: structs.TrainState,
  data_state: dict[str, Any],
  *,
  score: float | None = None,
  waits: bool = False,
) -> None:
  """Writes the checkpoint of `state.step`, unless it is there already.

  It is written in the background. Where that has failed, the next save says so,
  or the close of the manager. Where a save fails, it is tried again, see
  RETRY_SECONDS; in a run of several processes it is not: those that have not
  failed wait for the other within it.

  Args:
    manager: from open_manager.
    state: what to save.
    data_state: the data iterator's position, as JSON can hold it.
    score: the larger, the better; None: not scored.
    waits: until it is written.

  Raises:
    OSError, ValueError: it cannot be written; those before it are kept.
  """
  step = int(state.step)
  args = ocp.args.Composite(
    state=ocp.args.StandardSave(_fields(state)),
    data=ocp.args.JsonSave(data_state),
  )
  metrics = None if score is None else {"score": score}
  pauses = iter(RETRY_SECONDS if jax.process_count() == 1 else ())
  while True:
    try:
      if manager.latest_step() != step:
        manager.save(step, args=args, metrics=metrics)
      if waits:
        manager.wait_until_finished()
      return
    except (OSError, ValueError) as error:  # The second of tensorstore.
      pause = next(pauses, None)
      if pause is None:
        raise
      logging.warning(
        "%s: a checkpoint could not be written: %s. It is tried again in %g s",
        manager.directory,
        error,
        pause,
      )
      time.sleep(pause)
      # What is left of other steps takes room; that of this one is replaced.
      for unfinished in _unfinished(manager.directory):
        if not unfinished.name.startswith(f"{step}."):
          shutil.rmtree(unfinished, ignore_errors=True)


def restore(
  manager: ocp.CheckpointManager, like: structs.TrainState
) -> tuple[structs.TrainState, dict[str, Any]] | None:
  """Reads the newest checkpoint, in all processes that of the first.

  Args:
    manager: from open_manager.
    like: a state of the right shapes, dtypes and shardings.

  Returns:
    (state, data position), or None where there is no checkpoint.

  Raises:
    ValueError: the checkpoint does not fit `like`.
  """
  step = processes.on_first(manager.latest_step)
  return None if step is None else _restore(manager, step, like)


def restore_best(
  manager: ocp.CheckpointManager, like: structs.TrainState
) -> structs.TrainState:
  """Reads the checkpoint with the largest score, the newest of equal ones.

  Args:
    manager: from open_manager, with scores.
    like: as in restore.

  Raises:
    ValueError: none has a score, or the best is damaged.
  """
  step = processes.on_first(manager.best_step)
  if step is None:
    raise ValueError(
      f"{manager.directory}: no checkpoint has a score, so none is the best"
    )
  processes.on_first(manifest.check, manager.directory / str(step))
  logging.info("%s: step %d is the best", manager.directory, step)
  return _restore(manager, step, like)[0]


def _restore(
  manager: ocp.CheckpointManager, step: int, like: structs.TrainState
) -> tuple[structs.TrainState, dict[str, Any]]:
  _check_fits(manager.directory / str(step) / "state", like)
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _fields(like))
  restored = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
    ),
  )
  return structs.TrainState(**restored["state"]), restored["data"]


def _fields(state: structs.TrainState) -> dict[str, Any]:
  """Returns what is saved: checkpoints of before know no older weights."""
  fields = dict(vars(state))
  if state.older is None:
    del fields["older"]
  return fields


def _preservation(kept: Kept) -> policies.PreservationPolicy:
  """Returns which checkpoints orbax keeps: the last and the best."""
  of_all: list[policies.PreservationPolicy] = [policies.LatestN(kept.last)]
  if kept.best:
    of_all.append(
      policies.BestN(
        get_metric_fn=_score,
        n=kept.best,
        keep_checkpoints_without_metrics=False,
      )
    )
  return policies.AnyPreservationPolicy(of_all)


def _score(metrics: dict[str, float]) -> float:
  return metrics["score"]


def _set_aside_damaged(path: pathlib.Path) -> None:
  """Leaves as the newest checkpoint the newest whose files are as written.

  One without a manifest is of an earlier version of skd_jax, or somebody has
  deleted the manifest to accept its files. It is used where no other can be
  verified, and a warning says so.

  Raises:
    ValueError: all have a manifest and none fits it.
  """
  names = [entry.name for entry in path.glob("*") if entry.name.isdecimal()]
  steps = sorted(map(int, names), reverse=True)
  if not steps:
    return
  faults: dict[int, str] = {}
  for step in steps:
    faults[step] = _fault(path / str(step))
    if not faults[step]:
      break
  usable = [step for step, found in faults.items() if not found]
  if not usable:
    usable = [step for step in steps if not manifest.exists(path / str(step))]
    if not usable:
      raise ValueError(
        f"no checkpoint in {path} can be used: {'; '.join(faults.values())}. "
        f"Put the files back, or delete {path} to begin this stage again"
      )
    logging.warning("%s: it is used unverified", faults[usable[0]])
  for step in steps[: steps.index(usable[0])]:
    aside = path / f"{step}.set_aside"
    shutil.rmtree(aside, ignore_errors=True)
    # Orbax saves no step before its newest: a damaged one cannot stay.
    (path / str(step)).rename(aside)
    logging.warning(
      "%s. The checkpoint of step %d is now %s; that of step %d is used",
      faults[step],
      step,
      aside.name,
      usable[0],
    )


def _unfinished(path: Any) -> list[Any]:
  """Returns the folders that orbax has not finished, or has left behind."""
  return list(path.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"))


def _check_scores(path: pathlib.Path) -> None:
  """Refuses a damaged score: it decides what is kept, and what is the best."""
  for entry in path.glob("*"):
    if entry.name.isdecimal():
      manifest.check(entry, lambda name: name.startswith("metrics/"))


def _fault(checkpoint: pathlib.Path) -> str:
  if not manifest.exists(checkpoint):
    return f"{checkpoint}: has no manifest"
  return manifest.fault(checkpoint)


def _check_fits(folder: Any, like: structs.TrainState) -> None:
  saved = ocp.StandardCheckpointHandler().metadata(folder)
  before = {_name(path): x.shape for path, x in _leaves(saved.tree)}
  now = {_name(path): x.shape for path, x in _leaves(like)}
  for name in sorted(before.keys() | now.keys()):
    if before.get(name) != now.get(name):
      raise ValueError(
        f"{folder}: {name} has shape {before.get(name)}, must be "
        f"{now.get(name)}"
      )


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
  return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")
