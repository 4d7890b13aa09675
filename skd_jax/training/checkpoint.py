"""Orbax checkpoints of the training state and the data position.

A checkpoint holds the student, its optimizer, the step and where the data
iterator stands. The teacher is never saved, nor what is frozen of the student.
Random draws are keyed by the seed and the step, so there is no other random
state.

  checkpoints/NAME/40            the newest whose manifest fits its files
  checkpoints/NAME/60.set_aside  newer, but damaged: not used
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from skd_jax import structs
from skd_jax.parallel import processes
from skd_jax.reporting import manifest

# Orbax writes them after the manifest, and reads nothing in them that decides
# what is restored: without them the state and the position are the same.
_WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


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
  path: str | pathlib.Path, *, max_to_keep: int = 2
) -> Iterator[ocp.CheckpointManager]:
  """Opens the checkpoints of one stage; waits for writes when it closes.

  Damaged ones that are newer than a whole one are set aside, with a warning.

  Args:
    path: the folder; made if it is missing.
    max_to_keep: how many of the newest are kept.

  Raises:
    ValueError: all are damaged.
  """
  path = pathlib.Path(path).absolute()

  def write_manifest() -> None:
    for unfinished in path.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
      manifest.write(unfinished, leave_out=_WRITTEN_LATER)

  # Orbax calls it in its thread of the first process, once all processes have
  # written and before the rename that makes a checkpoint count. So a kill never
  # leaves one that counts and has no manifest.
  options = ocp.CheckpointManagerOptions(
    max_to_keep=max_to_keep,
    create=True,
    async_options=ocp.AsyncOptions(post_finalization_callback=write_manifest),
  )
  # Before any process lists the folder, so that all see the same newest step.
  processes.on_first(_set_aside_damaged, path)
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
) -> None:
  """Writes the checkpoint of `state.step`, unless it is there already.

  Args:
    manager: from open_manager.
    state: what to save.
    data_state: the data iterator's position, as JSON can hold it.
  """
  step = int(state.step)
  if manager.latest_step() == step:
    return
  manager.save(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
    ),
  )


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
  if step is None:
    return None
  _check_fits(manager.directory / str(step) / "state", like)
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
  restored = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
    ),
  )
  return restored["state"], restored["data"]


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
