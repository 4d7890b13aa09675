"""The minimum seconds of a step on a mesh of chips, by arithmetic.

A part of the step takes at least as long as the slowest of three:

  memory    bytes of the weights, of the filled part of the cache and, in the
            update, of the optimizer's state, over the memory bandwidth
  compute   multiplications over the peak rate
  network   bytes that collectives send around one ring of chips, over the
            bandwidth of its links

The step takes the sum of its parts. It is a bound and no prediction, because
the latency of collectives and of small operations, activations, the sampler,
the search of the nucleus and waiting for the longest response are left out.

Every row has a prompt of P tokens and a response of T. The teacher reads a
draft of G tokens at once, and the draft ends at the first replaced token, so at
a replacement rate r a round emits (1 - (1 - r)^G) / r tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax

from benchmarks.tpu import chips
from skd_jax import models
from skd_jax.parallel import sharding

_BF16, _F32 = 2, 4
# Training costs a forward pass and twice as much for the backward pass; with
# remat one more forward pass.
_TRAIN_PASSES, _REMAT_PASSES = 3, 4
_REDUCES_PER_LAYER = 2  # Along `tensor`: after attention and after the MLP.
# float32 numbers per weight that the update reads or writes: weight and both
# moments twice, the gradient once.
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
  teacher_bytes: float = _BF16  # A weight of the teacher.
  trains_adapters: bool = False  # The student is frozen, in bf16.

  @property
  def passes(self) -> int:
    """Passes of training through the layers, in forward passes."""
    # Frozen weights have no gradient, are cast already, and never gathered.
    frozen = self.trains_adapters
    return (_REMAT_PASSES if self.remat else _TRAIN_PASSES) - frozen

  @property
  def head_passes(self) -> int:
    """Those through the head."""
    return _TRAIN_PASSES - self.trains_adapters

  @property
  def rounds(self) -> float:
    """Rounds of a row."""
    rate, drafted = self.replacement_rate, self.num_draft_tokens
    emitted = (1 - (1 - rate) ** drafted) / rate if rate else drafted
    return self.response_tokens / emitted


@dataclasses.dataclass(frozen=True)
class Part:
  """The seconds that each resource needs for a part of the step."""

  memory: float = 0.0
  compute: float = 0.0
  network: float = 0.0

  @property
  def seconds(self) -> float:
    """The minimum for this part."""
    return max(dataclasses.astuple(self))

  @property
  def bound(self) -> str:
    """The resource that sets the minimum."""
    times = dataclasses.asdict(self)
    return max(times, key=times.__getitem__)

  def times(self, count: float) -> "Part":
    """Returns the part, repeated."""
    return Part(*(count * x for x in dataclasses.astuple(self)))


def summary(parts: Mapping[str, Part]) -> dict[str, float | str]:
  """Returns the seconds of a step, of rollout and training, and the bound.

  The bound is the part that takes longest and its resource: "draft memory" is
  the bandwidth that decoding needs, "train compute" the products of training.
  """
  longest = max(parts, key=lambda name: parts[name].seconds)
  total = sum(part.seconds for part in parts.values())
  train = parts["train"].seconds + parts["update"].seconds
  return {
    "step_s": total,
    "rollout_s": total - train,
    "training_s": train,
    "bound": f"{longest} {parts[longest].bound}",
  }


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
    sizes = jax.tree.map(
      lambda x, where: math.prod(where.shard_shape(x.shape)),
      models.param_shapes(short),
      models.param_shardings(short, mesh, usable),
    )
    return sum(jax.tree.leaves(sizes))

  # Every layer has the same shapes, and shapes of many layers take long.
  return count(1) + (config.num_layers - 1) * (count(2) - count(1))


@dataclasses.dataclass(frozen=True)
class Machine:
  """Chips of one kind, arranged as a mesh."""

  chip: chips.Chip
  data: int
  fsdp: int
  tensor: int

  def part_of(self, config: models.ModelConfig, kind: str, size: int) -> int:
    """Returns how much of a dimension a chip holds; all if not sharded."""
    mesh = _mesh(1, self.tensor)
    usable, _ = models.usable_rules(config, mesh, sharding.FROZEN)
    return size // math.prod(mesh.shape[axis] for axis in usable[kind])

  def head(self, config: models.ModelConfig) -> int:
    """Counts the weights of the head that a chip reads, tied or not."""
    rows = self.part_of(config, "vocab", config.vocab_rows)
    return rows * config.hidden_size

  def layers(self, config: models.ModelConfig) -> int:
    """Counts the weights between embedding and head that a chip reads."""
    tables = 1 if config.tie_embeddings else 2
    weights = weights_per_chip(config, tensor=self.tensor)
    return weights - tables * self.head(config)

  def gather(self, num_bytes: float, size: int) -> float:
    """Seconds until each chip of a ring has all the bytes; half of a sum."""
    return num_bytes * (size - 1) / size / self.chip.ici_bytes_per_s

  def one_pass(
    self,
    config: models.ModelConfig,
    rows: float,
    tokens: int,
    context: float,
    *,
    head: bool = True,
    weight_bytes: float = _BF16,
  ) -> Part:
    """Returns a pass with a cache over the rows of one group of chips.

    Args:
      config: the model.
      rows: of the group.
      tokens: of each row.
      context: slots of the cache that each token sees, on average.
      head: whether every token goes through the head.
      weight_bytes: of a weight.
    """
    weights = self.layers(config) + head * self.head(config)
    kv_heads = self.part_of(config, "kv_heads", config.num_kv_heads)
    heads = self.part_of(config, "heads", config.num_heads)
    seen = config.num_layers * rows * config.head_dim * context
    reduces = _REDUCES_PER_LAYER * config.num_layers + 1  # And the embedding's.
    reduced = reduces * rows * tokens * config.hidden_size * _BF16
    logits = head * rows * tokens * config.vocab_rows * _F32 / self.tensor
    flops = 2 * rows * tokens * weights + 4 * tokens * heads * seen
    read = weights * weight_bytes + 2 * kv_heads * seen * _BF16
    return Part(
      memory=read / self.chip.hbm_bytes_per_s,
      compute=flops / self.chip.flops_per_s,
      network=self.gather(2 * reduced + logits, self.tensor),
    )

  def response_tokens(self, work: Work) -> float:
    """Counts the tokens of the responses of a group of chips."""
    return work.rows / (self.data * self.fsdp) * work.response_tokens

  def train_parts(self, work: Work) -> dict[str, Part]:
    """Returns the products of forward and backward pass, layers and loss."""
    response = self.response_tokens(work)
    tokens = response * (1 + work.prompt_tokens / work.response_tokens)
    heads = work.head_passes * self.head(work.student) + self.head(work.teacher)
    layers = work.passes * self.layers(work.student)
    return {
      "hidden": Part(compute=2 * tokens * layers / self.chip.flops_per_s),
      "loss": Part(compute=2 * response * heads / self.chip.flops_per_s),
    }

  def train(self, work: Work) -> Part:
    """Returns forward and backward pass of the step."""
    config, parts, passes = work.student, work.num_microbatches, work.passes
    groups = self.data * self.fsdp
    tokens = work.prompt_tokens + work.response_tokens
    weights = self.layers(config) + self.head(config)
    frozen = work.trains_adapters
    read = passes * parts * weights * (_BF16 if frozen else _F32)
    gathered = 0 if frozen else weights
    reduces = passes * _REDUCES_PER_LAYER * config.num_layers
    reduced = reduces * work.rows / groups * tokens * config.hidden_size * _BF16
    return Part(
      memory=read / self.chip.hbm_bytes_per_s,
      compute=sum(part.compute for part in self.train_parts(work).values()),
      network=self.gather(2 * reduced, self.tensor)
      + (passes - 1) * parts * self.gather(gathered * _BF16, self.fsdp)
      + parts * self.gather(2 * gathered * _F32, groups),
    )

  def step(self, work: Work) -> dict[str, Part]:
    """Returns the parts of a step, by name."""
    rows = work.rows / (self.data * self.fsdp)
    student, teacher, prompt = work.student, work.teacher, work.prompt_tokens
    context = prompt + work.response_tokens / 2
    draft = self.one_pass(student, rows, 1, context)
    of_teacher = functools.partial(
      self.one_pass, teacher, rows, weight_bytes=work.teacher_bytes
    )
    verify = of_teacher(work.num_draft_tokens, context)
    prompts = (
      dataclasses.astuple(read(prompt, prompt / 2, head=False))
      for read in (functools.partial(self.one_pass, student, rows), of_teacher)
    )
    whole = weights_per_chip(student, tensor=self.tensor)
    trained = weights_per_chip(student, fsdp=self.fsdp, tensor=self.tensor)
    if work.trains_adapters:  # Few, beside the weights.
      whole = trained = 0
    update = _UPDATE_NUMBERS * trained * _F32 / self.chip.hbm_bytes_per_s
    return {
      "gather": Part(network=self.gather(whole * _BF16, self.fsdp)),
      "prompts": Part(*map(sum, zip(*prompts, strict=True))),
      "draft": draft.times(work.rounds * work.num_draft_tokens),
      "verify": verify.times(work.rounds),
      "train": self.train(work),
      "update": Part(memory=update),
    }
