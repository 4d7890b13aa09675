"""The step at which a run has failed, kept to be taken again: replay.py.

  failed_steps/NAME/   weights, batch and rollout: all that the loss and the
                       gradient depend on, except the teacher's head

The moments of the optimizer are not kept, as they come after the gradient.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from skd_jax import structs
from skd_jax.parallel import processes, sharding
from skd_jax.reporting import manifest


@dataclasses.dataclass(frozen=True)
class FailedStep:
  """What a step began with."""

  step: int  # Of the log, from 1.
  params: structs.Params  # float32, before the step
  batch: structs.Batch  # [B, ...]
  rollout: structs.Rollout  # [B, T]


def folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns where the failed step of a stage is."""
  return workdir / "failed_steps" / name


def save(path: pathlib.Path, failed: FailedStep) -> None:
  """Writes a failed step, in the place of an earlier one.

  Raises:
    OSError: it cannot be written, as on a full disk.
  """
  tree = {
    "step": np.int32(failed.step),
    "params": failed.params,
    "batch": _present(failed.batch),
    "rollout": _present(failed.rollout),
  }
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path.absolute(), tree, force=True)
  processes.on_first(manifest.write, path)


def read(
  path: pathlib.Path, like: structs.Params, mesh: jax.sharding.Mesh
) -> FailedStep:
  """Reads a failed step.

  Args:
    path: of the folder.
    like: weights of the right shapes, dtypes and shardings.
    mesh: rows are sharded over it.

  Raises:
    ValueError: a file is damaged.
  """
  manifest.check(path)
  absolute: Any = path.absolute()  # Of pathlib, where orbax says etils.
  rows, replicated = sharding.rows(mesh), sharding.replicated(mesh)

  def placed(where):
    return lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  saved = ocp.StandardCheckpointHandler().metadata(absolute).tree
  wanted = {
    "step": placed(replicated)(saved["step"]),
    "params": jax.tree.map(ocp.utils.to_shape_dtype_struct, like),
    "batch": jax.tree.map(placed(rows), saved["batch"]),
    "rollout": jax.tree.map(placed(rows), saved["rollout"]),
  }
  with ocp.StandardCheckpointer() as checkpointer:
    found = checkpointer.restore(absolute, wanted)
  # Without a teacher, no states of one were saved.
  rollout: dict[str, Any] = {"teacher_hidden": None, **found["rollout"]}
  if top := rollout.get("teacher_top"):
    rollout["teacher_top"] = structs.TeacherTop(**top)
  return FailedStep(
    step=int(found["step"]),
    params=found["params"],
    batch=structs.Batch(**found["batch"]),
    rollout=structs.Rollout(**rollout),
  )


def _present(fields: Any) -> dict[str, Any]:
  """Returns the fields of a dataclass that are not None."""
  return {name: x for name, x in vars(fields).items() if x is not None}
