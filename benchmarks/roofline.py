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
from skd_jax import models
from skd_jax.parallel import sharding

_BF16, _F32 = 2, 4
# Forward passes that training is worth: forward, and twice backward; with remat
# the forward pass once more.
_TRAIN_PASSES, _REMAT_PASSES = 3, 4
_REDUCES_PER_LAYER = 2  # Along `tensor`: after attention and after the MLP.
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
    return max(dataclasses.astuple(self))

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


def _mesh(fsdp: int, tensor: int) -> jax.sharding.AbstractMesh:
  return jax.sharding.AbstractMesh((1, fsdp, tensor), sharding.MESH_AXES)


@functools.cache
def weights_per_chip(
  config: models.ModelConfig, *, fsdp: int = 1, tensor: int = 1
) -> int:
  """Counts the weights of a model that one chip holds.

  Args:
    config: the model.
    fsdp: chips along mesh.fsdp; 1 also for weights that are not trained.
    tensor: chips along mesh.tensor.
  """

  def count(num_layers: int) -> int:
    short = dataclasses.replace(config, num_layers=num_layers, layer_windows=())
    mesh = _mesh(fsdp, tensor)
    usable, _ = models.usable_rules(short, mesh, sharding.TRAINED)
    leaves = zip(
      jax.tree.leaves(models.param_shapes(short)),
      jax.tree.leaves(models.param_shardings(short, mesh, usable)),
      strict=True,
    )
    return sum(math.prod(where.shard_shape(x.shape)) for x, where in leaves)

  # Every layer has the same shapes, and shapes of many layers take long.
  return count(1) + (config.num_layers - 1) * (count(2) - count(1))


@dataclasses.dataclass(frozen=True)
class Machine:
  """Chips of one kind, arranged as a mesh."""

  chip: chips.Chip
  data: int
  fsdp: int
  tensor: int

  @property
  def num_chips(self) -> int:
    """How many chips there are."""
    return self.num_groups * self.tensor

  @property
  def num_groups(self) -> int:
    """Groups of chips with rows of their own."""
    return self.data * self.fsdp

  def cut(self, config: models.ModelConfig, kind: str, size: int) -> int:
    """Returns how much of a dimension a chip has: all, where it is not cut."""
    mesh = _mesh(1, self.tensor)
    usable, _ = models.usable_rules(config, mesh, sharding.FROZEN)
    return size // math.prod(mesh.shape[axis] for axis in usable[kind])

  def head(self, config: models.ModelConfig) -> int:
    """Counts the weights of the head that a chip reads, tied or not."""
    rows = self.cut(config, "vocab", config.vocab_size)
    return rows * config.hidden_size

  def layers(self, config: models.ModelConfig) -> int:
    """Counts the weights between embedding and head that a chip reads."""
    tables = 1 if config.tie_embeddings else 2
    weights = weights_per_chip(config, tensor=self.tensor)
    return weights - tables * self.head(config)

  def gather(self, num_bytes: float, size: int) -> float:
    """Seconds until each chip of a ring of `size` has all of so many bytes."""
    return num_bytes * (size - 1) / size / self.chip.ici_bytes_per_s

  def all_reduce(self, num_bytes: float, size: int) -> float:
    """Seconds to sum so many bytes over a ring of `size` chips."""
    return 2 * self.gather(num_bytes, size)

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
    weights = self.layers(config) + head * self.head(config)
    kv_heads = self.cut(config, "kv_heads", config.num_kv_heads)
    heads = self.cut(config, "heads", config.num_heads)
    seen = config.num_layers * rows * config.head_dim * context
    reduces = _REDUCES_PER_LAYER * config.num_layers + 1  # And the embedding's.
    reduced = reduces * rows * tokens * config.hidden_size * _BF16
    logits = head * rows * tokens * config.vocab_size * _F32 / self.tensor
    flops = 2 * rows * tokens * weights + 4 * tokens * heads * seen
    read = (weights + 2 * kv_heads * seen) * _BF16
    return Part(
      memory=read / self.chip.hbm_bytes_per_s,
      compute=flops / self.chip.flops_per_s,
      network=self.all_reduce(reduced, self.tensor)
      + self.gather(logits, self.tensor),
    )

  def train(self, work: Work) -> Part:
    """Returns forward and backward of the step."""
    config, parts = work.student, work.num_microbatches
    sequences = work.rows / self.num_groups
    response = sequences * work.response_tokens
    tokens = response + sequences * work.prompt_tokens
    passes = _REMAT_PASSES if work.remat else _TRAIN_PASSES
    layers, head = self.layers(config), self.head(config)
    flops = 2 * passes * tokens * layers
    flops += 2 * response * (_TRAIN_PASSES * head + self.head(work.teacher))
    weights = layers + head
    reduces = passes * _REDUCES_PER_LAYER * config.num_layers
    network = (
      self.all_reduce(
        reduces * tokens * config.hidden_size * _BF16, self.tensor
      )
      + (passes - 1) * parts * self.gather(weights * _BF16, self.fsdp)
      + parts * self.all_reduce(weights * _F32, self.num_groups)
    )
    return Part(
      memory=passes * parts * weights * _F32 / self.chip.hbm_bytes_per_s,
      compute=flops / self.chip.flops_per_s,
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
    whole = weights_per_chip(student, tensor=self.tensor)
    masters = weights_per_chip(student, fsdp=self.fsdp, tensor=self.tensor)
    update = _UPDATE_NUMBERS * masters * _F32 / self.chip.hbm_bytes_per_s
    return {
      "gather": Part(network=self.gather(whole * _BF16, self.fsdp)),
      "prompts": sum(prompts, Part()),
      "draft": draft.times(work.rounds * work.num_draft_tokens),
      "verify": verify.times(work.rounds),
      "train": self.train(work),
      "update": Part(memory=update),
    }

  def memory_bytes(self, work: Work) -> float:
    """Returns the bytes that a chip holds at least, by shapes.

    Weights, moments, and the larger of what the rollout adds (the student once
    more, in bfloat16, and both caches) and what training adds (the gradient of
    a microbatch and their sum, and the input of each layer).
    """
    rows = work.rows / self.num_groups
    student, teacher = work.student, work.teacher
    masters = weights_per_chip(student, fsdp=self.fsdp, tensor=self.tensor)
    whole = weights_per_chip(student, tensor=self.tensor)
    frozen = weights_per_chip(teacher, tensor=self.tensor)
    tokens = work.prompt_tokens + work.response_tokens
    caches = sum(
      2
      * config.num_layers
      * rows
      * tokens
      * self.cut(config, "kv_heads", config.num_kv_heads)
      * config.head_dim
      for config in (student, teacher)
    )
    inputs = student.num_layers * tokens * rows * student.hidden_size
    rollout = _BF16 * (whole + caches)
    training = 2 * _F32 * masters + _BF16 * inputs / work.num_microbatches
    return _BF16 * frozen + 3 * _F32 * masters + max(rollout, training)


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
    "training_s": train,
    "bound": f"{longest} {parts[longest].bound}",
  }
