"""What generates the responses of the steps, on devices that it is given."""

import dataclasses
from typing import Any

import jax

from skd_jax import structs
from skd_jax.decoding import sampling
from skd_jax.models import LoadedModel, lora
from skd_jax.parallel import rollout_devices, sharding
from skd_jax.training import generation


@dataclasses.dataclass(frozen=True)
class Generator:
  """Generates the responses of a step, as a spec says.

  spec: who generates.
  rollout_fn: from make_rollout_fn, of the same spec and mesh.
  mesh: the devices: those that train, or others.
  frozen: the weights of the student that are not trained, there; or None.
  teacher: there.
  """

  spec: generation.GenerationSpec
  rollout_fn: generation.RolloutFn
  mesh: jax.sharding.Mesh
  frozen: structs.Params
  teacher: LoadedModel

  def responses(
    self,
    params: structs.Params,
    seen: jax.Array | None,
    batch: structs.Batch,
    seed: int,
    step: int,
  ) -> tuple[structs.Rollout, dict[str, float]]:
    """Generates the responses of a step, and waits for them.

    Args:
      params: the student's weights, from TrainFns.generating.
      seen: with them.
      batch: [B, ...], on the devices that train.
      seed: of the draws.
      step: of the run.

    Returns:
      As generation.generate_responses.
    """
    with jax.set_mesh(self.mesh):
      return generation.generate_responses(
        *self._arguments(params, seen, batch, seed, step)
      )

  def begin(
    self,
    params: structs.Params,
    seen: jax.Array | None,
    batch: structs.Batch,
    seed: int,
    step: int,
  ) -> structs.Rollout:
    """As `responses`, but waits for no device; the rollout is on the mesh."""
    with jax.set_mesh(self.mesh):
      return generation.begin_responses(
        *self._arguments(params, seen, batch, seed, step)
      )

  def _arguments(
    self,
    params: structs.Params,
    seen: jax.Array | None,
    batch: structs.Batch,
    seed: int,
    step: int,
  ) -> tuple[Any, ...]:
    """Returns those of the two functions above; arrays on the mesh."""
    trained, _ = lora.split(params)
    trained = rollout_devices.on_mesh(trained, self.mesh)
    if seen is not None:
      seen = rollout_devices.move(seen, sharding.replicated(self.mesh))
    batch = rollout_devices.rows_on_mesh(batch, self.mesh)
    return (
      self.spec,
      self.rollout_fn,
      self.teacher.model,
      lora.attach(trained, self.frozen),
      self.teacher.params,
      batch,
      sampling.row_keys(seed, step, batch.index),
      step,
      seen,
    )
