"""Orbax checkpoints of the training state and the data position.

A checkpoint holds the student, its optimizer, the step and where the data
iterator stands. The teacher is never saved. Random draws are keyed by the seed
and the step, so there is no other random state.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from skd_jax import structs


def folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns where the checkpoints of a stage are."""
  return workdir / "checkpoints" / name


def exist(workdir: pathlib.Path, name: str) -> bool:
  """Whether a stage has a checkpoint."""
  return any(path.name.isdecimal() for path in folder(workdir, name).glob("*"))


@contextlib.contextmanager
def open_manager(
  path: str | pathlib.Path, *, max_to_keep: int = 2
) -> Iterator[ocp.CheckpointManager]:
  """Opens the checkpoints of one stage; waits for writes when it closes.

  Args:
    path: the folder; made if it is missing.
    max_to_keep: how many of the newest are kept.
  """
  options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, create=True)
  manager = ocp.CheckpointManager(
    pathlib.Path(path).absolute(),
    options=options,
    item_names=("state", "data"),
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
  """Reads the newest checkpoint.

  Args:
    manager: from open_manager.
    like: a state of the right shapes, dtypes and shardings.

  Returns:
    (state, data position), or None where there is no checkpoint.

  Raises:
    ValueError: the checkpoint does not fit `like`.
  """
  step = manager.latest_step()
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
