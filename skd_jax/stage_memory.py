"""What the memory of a stage depends on, from its settings and its models."""

from typing import Any

import jax
import ml_collections

from skd_jax import config as config_lib
from skd_jax import models
from skd_jax.data import packing
from skd_jax.data.tasks import TaskSet
from skd_jax.parallel import sharding
from skd_jax.training import memory, train_step


def step_memory(
  config: ml_collections.ConfigDict,
  stage: str,
  tasks: TaskSet,
  train: train_step.TrainFns,
  student: models.LoadedModel,
  teacher: models.LoadedModel | None = None,
  num_draft_tokens: int = 1,
  *,
  mesh: jax.sharding.Mesh,
  dtype: Any,
) -> memory.StepMemory:
  """Returns what the memory of a stage depends on.

  Args:
    config: the config.
    stage: "teacher.fit", "student.fit" or "distill".
    tasks: the tasks, for the longest prompt and response.
    train: the functions that train.
    student: what is trained.
    teacher: None in SFT, and where it is cached.
    num_draft_tokens: G; the config's may be 0, for the fastest.
    mesh: the mesh.
    dtype: of activations and caches.
  """
  fit = config_lib.get(config, stage)
  generators: dict[str, Any] = {
    "skd": (student, teacher),
    "on_policy": (student,),
    "teacher": (teacher,),
  }
  top_k = config.teacher_cache.top_k if stage == "distill" else 0
  mode = config.rollout.mode
  if stage != "distill" or top_k or config.mesh.rollout_devices:
    mode = "reference"  # Nothing is generated, or not on these devices.
  prompt = max(task.prompt_length for task in tasks.tasks)
  rows, response = fit.batch_size, tasks.max_new_tokens
  if fit.packed_length:
    in_a_row = fit.packed_length // (prompt + response)
    multiple = sharding.num_row_shards(mesh) * fit.num_microbatches
    rows = packing.round_up(-(-rows // in_a_row), rows, multiple)
    prompt, response = 1, fit.packed_length - 1
  return memory.StepMemory(
    student=student,
    teacher=teacher,
    generators=generators.get(mode, ()),
    state=jax.eval_shape(train.init, student.params),
    mesh=mesh,
    dtype=dtype,
    remat=config["teacher" if stage == "teacher.fit" else "student"].remat,
    batch_size=rows,
    num_microbatches=fit.num_microbatches,
    slots=config.rollout.batch_size,
    prompt=prompt,
    response=response,
    num_draft_tokens=num_draft_tokens if mode == "skd" else 1,
    chunk_size=config.loss.chunk_size,
    cached_top_k=top_k,
  )
