"""The least seconds that a step of distillation takes on a mesh of chips.

A part of the step takes at least as long as the slowest of three:

  memory    the weights, the filled part of the cache and, in the update, the
            optimizer's state, read once a pass, over the bandwidth of the chip
  compute   its multiplications over the peak rate
  network   what its collectives move over one ring of chips

The step is the sum of its parts. What is left out makes it a bound and no
prediction: the latency of collectives and of small operations, activations,
the sampler, the search of the nucleus, waiting for the longest response.

Every row has a prompt of P tokens and a response of T. A draft of G tokens is
read by the teacher at once and ends at the first that it replaces, so at a
replacement rate r a round emits (1 - (1 - r)^G) / r tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax

from benchmarks import chips
from skd_jax import models, sharding, structs

_BF16, _F32 = 2, 4
# Of the products of a forward pass: forward, and twice backward; with remat
# forward once more.
_TRAIN_PASSES, _REMAT_PASSES = 3, 4
# All-reduces along `tensor`: two a layer in each of forward, remat, backward.
_REDUCES_PER_LAYER = 2
# float32 numbers of each weight that the update reads or writes: weight and
# both moments twice, the gradient once.
_UPDATE_NUMBERS = 7


@dataclasses.dataclass(frozen=True)
class Work:
  """A step of distillation."""

  student: models.ModelConfig
  teacher: models.ModelConfig
  rows: int  # B, over all chips.
  prompt_tokens: int  # P
  response_tokens: int  # T
  num_draft_tokens: int  # G
  replacement_rate: float  # Of emitted tokens.
  num_microbatches: int = 1
  remat: bool = True

  @property
  def rounds(self) -> float:
    """Rounds of a row."""
    rate, drafted = self.replacement_rate, self.num_draft_tokens
    emitted = (1 - (1 - rate) ** drafted) / rate if rate else drafted
    return self.response_tokens / emitted

  @property
  def context(self) -> float:
    """Slots of the cache that a new token sees, on average."""
    return self.prompt_tokens + self.response_tokens / 2


@dataclasses.dataclass(frozen=True)
class Part:
  """The seconds that each resource needs for a part of the step."""

  memory: float = 0.0
  compute: float = 0.0
  network: float = 0.0

  @property
  def seconds(self) -> float:
    """The least that the part takes."""
    return max(self.memory, self.compute, self.network)

  @property
  def bound(self) -> str:
    """Which resource that is."""
    times = dataclasses.asdict(self)
    return max(times, key=times.__getitem__)

  def times(self, count: float) -> "Part":
    """Returns the part, so many times."""
    return Part(*(count * x for x in dataclasses.astuple(self)))

  def __add__(self, other: "Part") -> "Part":
    pairs = zip(
      dataclasses.astuple(self), dataclasses.astuple(other), strict=True
    )
    return Part(*(a + b for a, b in pairs))


def abstract_mesh(
  data: int, fsdp: int, tensor: int
) -> jax.sharding.AbstractMesh:
  """Returns a mesh without devices, for arithmetic."""
  return jax.sharding.AbstractMesh((data, fsdp, tensor), sharding.MESH_AXES)


def shard_elements(tree: structs.Params, shardings: structs.Params) -> int:
  """Counts the numbers of a tree of arrays that one device holds."""
  return sum(
    math.prod(where.shard_shape(x.shape))
    for x, where in zip(
      jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True
    )
  )


@functools.cache
def _param_shapes(config: models.ModelConfig) -> structs.Params:
  return models.param_shapes(config)


def weights_per_chip(
  config: models.ModelConfig,
  mesh: jax.sharding.AbstractMesh,
  rules: sharding.Rules,
) -> int:
  """Counts the weights of a model that one device holds."""
  usable, _ = models.usable_rules(config, mesh, rules)
  return shard_elements(
    models.param_shapes(config), models.param_shardings(config, mesh, usable)
  )


def _parts(
  config: models.ModelConfig, mesh: jax.sharding.AbstractMesh, kind: str
) -> int:
  """Into how many parts a kind of dimension is cut along `tensor`."""
  usable, _ = models.usable_rules(config, mesh, sharding.FROZEN)
  return math.prod(mesh.shape[axis] for axis in usable[kind])


def _head(config: models.ModelConfig, mesh: jax.sharding.AbstractMesh) -> int:
  """Counts the weights of the head that one device holds, tied or not."""
  rows = config.vocab_size // _parts(config, mesh, "vocab")
  return rows * config.hidden_size


def _layers(config: models.ModelConfig, mesh: jax.sharding.AbstractMesh) -> int:
  """Counts the weights between embedding and head that one device holds."""
  tables = 1 if config.tie_embeddings else 2
  weights = weights_per_chip(config, mesh, sharding.FROZEN)
  return weights - tables * _head(config, mesh)


@dataclasses.dataclass(frozen=True)
class Machine:
  """Chips of one kind, arranged as a mesh."""

  chip: chips.Chip
  mesh: jax.sharding.AbstractMesh

  @property
  def num_groups(self) -> int:
    """Groups of chips with rows of their own."""
    return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

  def all_reduce(self, num_bytes: float, size: int) -> float:
    """Seconds to sum so many bytes over a ring of `size` chips."""
    return 2 * self.gather(num_bytes, size)

  def gather(self, num_bytes: float, size: int) -> float:
    """Seconds until each of `size` chips has all of so many bytes."""
    return num_bytes * (size - 1) / size / self.chip.ici_bytes_per_s

  def one_pass(
    self,
    config: models.ModelConfig,
    rows: float,
    tokens: int,
    context: float,
    *,
    head: bool = True,
  ) -> Part:
    """Returns a pass with a cache, of the rows of one group of chips."""
    chip, tensor = self.chip, self.mesh.shape["tensor"]
    weights = _layers(config, self.mesh) + head * _head(config, self.mesh)
    kv_heads = config.num_kv_heads // _parts(config, self.mesh, "kv_heads")
    heads = config.num_heads // _parts(config, self.mesh, "heads")
    cached = 2 * config.num_layers * rows * kv_heads * config.head_dim * context
    attention = 4 * config.num_layers * rows * tokens * heads
    attention *= config.head_dim * context
    reduces = _REDUCES_PER_LAYER * config.num_layers + 1  # And the embedding's.
    reduced = reduces * rows * tokens * config.hidden_size * _BF16
    logits = head * rows * tokens * config.vocab_size * _F32 / tensor
    return Part(
      memory=(weights + cached) * _BF16 / chip.hbm_bytes_per_s,
      compute=(2 * rows * tokens * weights + attention) / chip.flops_per_s,
      network=self.all_reduce(reduced, tensor) + self.gather(logits, tensor),
    )

  def train(self, work: Work) -> Part:
    """Returns forward and backward of the step."""
    config, chip, tensor = work.student, self.chip, self.mesh.shape["tensor"]
    data, fsdp = self.mesh.shape["data"], self.mesh.shape["fsdp"]
    sequences = work.rows / self.num_groups
    response = sequences * work.response_tokens
    tokens = response + sequences * work.prompt_tokens
    passes = _REMAT_PASSES if work.remat else _TRAIN_PASSES
    layers, head = _layers(config, self.mesh), _head(config, self.mesh)
    flops = 2 * passes * tokens * layers
    flops += 2 * response * _TRAIN_PASSES * head
    flops += 2 * response * _head(work.teacher, self.mesh)
    weights = layers + head
    reduces = passes * _REDUCES_PER_LAYER * config.num_layers
    gathers = (passes - 1) * work.num_microbatches
    read = weights * _F32 / chip.hbm_bytes_per_s
    network = (
      self.all_reduce(reduces * tokens * config.hidden_size * _BF16, tensor)
      + gathers * self.gather(weights * _BF16, fsdp)
      + work.num_microbatches * self.all_reduce(weights * _F32, data * fsdp)
    )
    return Part(
      memory=passes * work.num_microbatches * read,
      compute=flops / chip.flops_per_s,
      network=network,
    )

  def step(self, work: Work) -> Mapping[str, Part]:
    """Returns the parts of a step, by name."""
    rows = work.rows / self.num_groups
    student, teacher = work.student, work.teacher
    read = functools.partial(self.one_pass, head=False)
    prompts = (
      read(config, rows, work.prompt_tokens, work.prompt_tokens / 2)
      for config in (student, teacher)
    )
    draft = self.one_pass(student, rows, 1, work.context)
    verify = self.one_pass(teacher, rows, work.num_draft_tokens, work.context)
    whole = weights_per_chip(student, self.mesh, sharding.FROZEN)
    masters = weights_per_chip(student, self.mesh, sharding.TRAINED)
    return {
      "gather": Part(
        network=self.gather(whole * _BF16, self.mesh.shape["fsdp"])
      ),
      "prompts": sum(prompts, Part()),
      "draft": draft.times(work.rounds * work.num_draft_tokens),
      "verify": verify.times(work.rounds),
      "train": self.train(work),
      "update": Part(
        memory=_UPDATE_NUMBERS * masters * _F32 / self.chip.hbm_bytes_per_s
      ),
    }


def summary(parts: Mapping[str, Part]) -> dict[str, float | str]:
  """Returns seconds of the step, of rollout and training, and the bound.

  The bound is the part that takes longest and its resource: "draft memory" is
  the bandwidth that decoding needs, "train compute" the products of training.
  """
  seconds = {name: part.seconds for name, part in parts.items()}
  longest = max(seconds, key=seconds.__getitem__)
  train = seconds["train"] + seconds["update"]
  total = sum(seconds.values())
  return {
    "step_s": total,
    "rollout_s": total - train,
    "train_s": train,
    "bound": f"{longest} {parts[longest].bound}",
  }
