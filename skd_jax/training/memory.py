"""How much memory of a device a step needs: an estimate from shapes alone.

The compiler fuses some of what is counted here, and pads some. The compiler's
own totals are in benchmarks/tpu/plan.py.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from skd_jax import models, structs
from skd_jax.losses import chunked
from skd_jax.parallel import sharding

GIB = 2**30
_ADVICE = {
  "generating": "a smaller rollout.batch_size or batch_size, mesh.tensor",
  "training": "num_microbatches, remat, a smaller batch_size, mesh.fsdp",
}

Parts = Mapping[str, int]  # Bytes of a device, by what they hold.


def held_bytes(tree: Any) -> int:
  """Returns the bytes of a device that placed arrays, or their shapes, take."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * _num_bits(x.dtype) // 8
    for x in jax.tree.leaves(tree)
  )


def _num_bits(dtype: Any) -> int:
  # A device packs two int4 in a byte; their itemsize is that of the host.
  return 4 if dtype == jnp.int4 else 8 * dtype.itemsize


def has_room(num_bytes: int) -> bool:
  """Whether so many bytes more fit a device; so they do where it has no limit.

  Of several processes, each is told of its first device.
  """
  stats = jax.local_devices()[0].memory_stats() or {}  # None on CPUs.
  free = stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
  return num_bytes <= free


def cache_bytes(
  model: models.LoadedModel, mesh: jax.sharding.Mesh, rows: int, slots: int
) -> int:
  """Returns the bytes of a device that the cache of a group's rows takes."""
  cache = jax.eval_shape(lambda: model.model.init_cache(rows, slots))
  total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
  return total // _num_parts(model, mesh, "kv_heads")


@dataclasses.dataclass(frozen=True)
class StepMemory:
  """What the memory of a step depends on; shapes serve as arrays."""

  student: models.LoadedModel  # Its weights stay, as the next seed's start.
  teacher: models.LoadedModel | None  # None in SFT, and where it is cached.
  generators: Sequence[models.LoadedModel]  # Those of the two that generate.
  state: structs.TrainState
  mesh: jax.sharding.Mesh
  dtype: Any  # Of activations and caches.
  remat: bool  # The student keeps the input of each layer alone.
  batch_size: int  # B
  num_microbatches: int
  slots: int  # Rows that are decoded at once; 0: all.
  prompt: int  # P, the most of any batch.
  response: int  # T, likewise.
  num_draft_tokens: int  # G; 1 where one model generates.
  chunk_size: int  # See chunked.fitting_size.
  cached_top_k: int = 0  # K of a cached teacher, which is then not there.

  def training(self) -> Parts:
    """Returns what the train step needs, and what stays beside it."""
    rows = self._rows(self.batch_size) // self.num_microbatches
    layer = self._layer_bytes()
    length = self.prompt + self.response - 1
    kept = self._hidden_bytes(self.student, length) if self.remat else layer
    copies = 1 if self.num_microbatches == 1 else 2  # The sum, and a part.
    num_layers = self.student.config.num_layers
    chunk = chunked.fitting_size(
      self.chunk_size, self.student.config.vocab_size, self.mesh
    )
    return self._resident() | {
      "gradient": copies * held_bytes(self.state.params),
      # The backward pass works on one layer beside what the others keep.
      "activations": rows * (num_layers * kept + layer),
      "logits": min(chunk, rows * self.response) * self._logits_bytes(),
    }

  def generating(self) -> Parts:
    """Returns what the rollout needs, and what stays beside it."""
    slots = self._rows(self.slots or self.batch_size)
    length = self.prompt + self.response + self.num_draft_tokens
    # Gathered over fsdp, once before the rollout.
    whole = held_bytes(self.state.params) * self.mesh.shape["fsdp"]
    cast = whole * jnp.dtype(self.dtype).itemsize // 4
    if self.state.older is not None and self.mesh.shape["fsdp"] == 1:
      cast = 0  # The older weights are, and are resident.
    return self._resident() | {
      "cast weights": cast,
      "caches": sum(
        cache_bytes(model, self.mesh, slots, length)
        for model in self.generators
      ),
      "logits": slots * self.num_draft_tokens * self._logits_bytes(),
    }

  def _resident(self) -> dict[str, int]:
    weights = held_bytes(self.student.params) + held_bytes(self.state.params)
    found = {"student": weights, "optimizer": held_bytes(self.state.opt_state)}
    rows = self._rows(self.batch_size)
    if self.cached_top_k:
      # Ids and log-probabilities of 4 bytes, and the tail.
      found["responses"] = rows * self.response * (8 * self.cached_top_k + 4)
    if self.teacher:
      found["teacher"] = held_bytes(self.teacher.params)
      found["responses"] = rows * self._hidden_bytes(
        self.teacher, self.response
      )
    if self.state.older is not None:
      found["older weights"] = held_bytes(self.state.older)
      found["responses"] *= 2  # Those of the next step as well.
    return found

  def _rows(self, num_rows: int) -> int:
    return num_rows // sharding.num_row_shards(self.mesh)

  def _logits_bytes(self) -> int:
    parts = _num_parts(self.student, self.mesh, "vocab")
    return chunked.NUM_LOGITS * 4 * self.student.config.vocab_rows // parts

  def _hidden_bytes(self, model: models.LoadedModel, length: int) -> int:
    return length * model.config.hidden_size * jnp.dtype(self.dtype).itemsize

  def _layer_bytes(self) -> int:
    """Returns what a layer keeps of a row for the backward pass.

    What JAX keeps of two rows less what it keeps of one: weights are left out.
    """
    layer = self.student.config.of_one_layer()
    model = models.create(layer, dtype=self.dtype)
    tensor = self.mesh.shape["tensor"]

    def kept(rows: int) -> int:
      shapes = ((rows, self.prompt), (rows,), (rows, self.response))
      _, backward = jax.eval_shape(
        lambda p, *ids: jax.vjp(lambda p: model.response_hidden(p, *ids), p),
        models.param_shapes(layer),
        *(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes),
      )
      # As wide as the residual stream: whole on each device; else sharded.
      return sum(
        x.size
        * x.dtype.itemsize
        // (1 if x.shape[-1:] == (layer.hidden_size,) else tensor)
        for x in jax.tree.leaves(backward)
      )

    return kept(2) - kept(1)


def _num_parts(
  model: models.LoadedModel, mesh: jax.sharding.Mesh, kind: str
) -> int:
  """Returns into how many parts a kind of dimension is sharded."""
  usable, _ = models.usable_rules(model.config, mesh, sharding.FROZEN)
  return math.prod(mesh.shape[axis] for axis in usable[kind])


def report(name: str, step: StepMemory) -> None:
  """Logs the memory of the larger program; warns if a device has less.

  Args:
    name: of the stage.
    step: of the stage.
  """
  programs = {"training": step.training()}
  if step.generators:
    programs["generating"] = step.generating()
  most = max(programs, key=lambda program: sum(programs[program].values()))
  parts = {part: n / GIB for part, n in programs[most].items()}
  total = sum(parts.values())
  shown = ", ".join(f"{part} {gib:.2g}" for part, gib in parts.items())
  text = f"Memory of {name}: about {total:.2g} GiB per device, {most}: {shown}"
  stats = jax.local_devices()[0].memory_stats() or {}  # None on CPUs.
  limit = stats.get("bytes_limit", math.inf) / GIB
  if total <= limit:
    logging.info("%s", text)
    return
  logging.warning(
    "%s. A device has %.2g GiB; what helps: %s", text, limit, _ADVICE[most]
  )
