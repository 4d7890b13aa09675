"""What a student and a teacher make of each other before they are trained.

Two rollouts of the same few prompts, with the same draws:

  with the teacher    what share of the tokens the rule of SKD replaces
  the student alone   how much it generates, and what the teacher says of it

And one pass of the teacher over the references: what it makes of them shows
whether its weights, its tokenizer and its template go together.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.decoding import acceptance, stopping
from skd_jax.losses import chunked, divergence
from skd_jax.models import forward
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import processes, sharding
from skd_jax.training import generation, rollout_stats

TOP_K = 25  # The rule of the paper: arXiv 2410.11325, section 3.

# The bounds of `verdict`. They are ours: round numbers, of no paper.
FEWEST_REPLACED = 0.005  # Fewer change next to nothing of a response.
MOST_REPLACED = 0.5  # More leave responses that are the teacher's.
MOST_TRUNCATED = 0.5  # Most responses of the student do not end.
# Of the entropy of a teacher that knows nothing, log V: what it accepts says
# little, and so does what the student would learn of it.
MOST_UNCERTAIN = 0.5
# Of log V, the loss of guessing: a teacher that is read rightly is far below.
MOST_LOST = 0.8

_DRAFT_TOKENS = 5  # Of the paper's rule.
_CHUNK_SIZE = 256  # Tokens whose logits are held at once.


@dataclasses.dataclass(frozen=True)
class Probe:
  """What is found about a pair; shares are in [0, 1].

  Of the rollouts with the teacher:

  rule: that judged, and its threshold: the run's own as its first step has it,
    or the paper's where the run has none.
  replaced: tokens that are the teacher's, over all emitted ones.

  Of the responses of the student alone, at temperature 1, a mean over tokens:

  rows: responses.
  mean_length: tokens a response.
  truncated: responses that ended at the length limit.
  outside_top_k: tokens that are not in the teacher's top 25.
  teacher_entropy: of its next-token distribution, in nats.
  max_entropy: log V, that of a teacher that knows nothing.
  kl: KL(teacher || student), in nats.
  agreement: where the most probable token of both is the same.

  Of the references:

  teacher_loss: the teacher's cross-entropy a token, in nats.
  """

  rule: str
  replaced: float
  rows: int
  mean_length: float
  truncated: float
  outside_top_k: float
  teacher_entropy: float
  max_entropy: float
  kl: float
  agreement: float
  teacher_loss: float


@struct.dataclass
class _Sums:
  """Sums over tokens; see Probe."""

  tokens: jax.Array  # float32 []; so are the others
  outside_top_k: jax.Array
  teacher_entropy: jax.Array
  kl: jax.Array
  agreement: jax.Array
  teacher_loss: jax.Array


def probe_pair(
  spec: generation.GenerationSpec,
  student: LoadedModel,
  teacher: LoadedModel,
  stop_table: stopping.StopTable,
  batch: structs.Batch,
  row_keys: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  dtype: jax.typing.DTypeLike,
) -> Probe:
  """Measures what a student and a teacher make of each other.

  Args:
    spec: who generates in the run. Where that is not the mode `skd`, the
      paper's rule is probed, with the run's sampling.
    student: with its weights at the start.
    teacher: likewise.
    stop_table: what ends a response.
    batch: a few prompts [B, P], placed on the mesh.
    row_keys: typed PRNG keys [B], which no step of the run has.
    mesh: rows are sharded over it; the mesh of the context.
    dtype: of the student's weights while it generates.

  Returns:
    Plain numbers, the same in every process.
  """

  def run(spec):
    rollout_fn = generation.make_rollout_fn(
      spec, student, teacher, stop_table, mesh=mesh, dtype=dtype
    )
    threshold = jnp.float32(spec.threshold(0))
    return rollout_fn(
      student.params, teacher.params, batch, row_keys, threshold
    )

  judging = with_rule(spec)
  judged = rollout_stats.count(run(judging))
  alone = run(dataclasses.replace(spec, mode="on_policy"))
  counts = rollout_stats.count(alone)

  def means(rollout):
    sums = _token_sums(
      student.params,
      teacher.params,
      batch,
      rollout,
      student=student.model,
      teacher=teacher.model,
    )
    found = {k: float(v) for k, v in vars(processes.to_host(sums)).items()}
    tokens = found.pop("tokens")
    return {name: value / tokens for name, value in found.items()}

  of_references = means(generation.reference_rollout(batch))
  return Probe(
    rule=_describe(judging),
    replaced=judged.replaced / judged.emitted,
    rows=counts.rows,
    mean_length=counts.emitted / counts.rows,
    truncated=counts.truncated / counts.rows,
    max_entropy=math.log(teacher.config.vocab_size),
    **means(alone) | {"teacher_loss": of_references["teacher_loss"]},
  )


def with_rule(spec: generation.GenerationSpec) -> generation.GenerationSpec:
  """Returns the spec, with the paper's rule where no teacher judges."""
  if spec.mode == "skd":
    return spec
  return dataclasses.replace(
    spec,
    mode="skd",
    rule=acceptance.Rule("top_k"),
    threshold=lambda step: TOP_K,
    # It changes the speed alone, and may be unset here.
    num_draft_tokens=min(_DRAFT_TOKENS, spec.max_new_tokens),
  )


def _describe(spec: generation.GenerationSpec) -> str:
  """Returns the rule in words, such as "top_k 25"."""
  accept = spec.rule.accept
  if not isinstance(accept, str):
    accept = getattr(accept, "__name__", "a rule")
  elif acceptance.RULES[accept].low is None:
    return accept  # It has no threshold.
  return f"{accept} {spec.threshold(0):g}"


@functools.partial(jax.jit, static_argnames=("student", "teacher"))
def _token_sums(
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  rollout: structs.Rollout,
  *,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
) -> _Sums:
  """Sums over the tokens of a rollout, of one pass of each model."""

  def states(model, params):
    return forward.response_hidden(
      model, params, batch.prompt, batch.prompt_length, rollout.tokens
    )

  positions = jnp.arange(rollout.tokens.shape[1])
  mask = positions[None, :] < rollout.length[:, None]

  def walk(heads, rows):
    student_head, teacher_head = heads
    of_student, of_teacher, tokens, mask = rows
    chunks = chunked.Chunks(mask, _CHUNK_SIZE)

    def add_chunk(i, total):
      take, valid = chunks[i]
      values = _look_at(
        teacher.head(teacher_head, take(of_teacher)),
        student.head(student_head, take(of_student)),
        take(tokens),
      )
      sums = jax.tree.map(lambda x: jnp.sum(jnp.where(valid, x, 0.0)), values)
      return jax.tree.map(jnp.add, total, sums)

    zeros = _Sums(*[jnp.float32(0)] * 6)
    sums = jax.lax.fori_loop(0, chunks.number, add_chunk, zeros)
    return sharding.sum_over_groups(sums)

  flat = jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]),
    (
      states(student, student_params),
      states(teacher, teacher_params),
      rollout.tokens,
      mask,
    ),
  )
  heads = (
    student.head_params(student_params),
    teacher.head_params(teacher_params),
  )
  return sharding.by_rows(walk, out=sharding.OF_ALL)(heads, flat)


def _look_at(
  teacher: jax.Array, student: jax.Array, tokens: jax.Array
) -> _Sums:
  """What both say of each token: logits [C, V] twice, int32 [C] -> [C]."""
  log_probs = jax.nn.log_softmax(teacher)
  same_best = jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)
  outside = acceptance.token_rank(teacher, tokens) >= TOP_K
  return _Sums(
    tokens=jnp.ones(tokens.shape, jnp.float32),
    outside_top_k=outside.astype(jnp.float32),
    teacher_entropy=-jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1),
    kl=divergence.forward_kl(teacher, student),
    agreement=same_best.astype(jnp.float32),
    teacher_loss=-jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0],
  )


def verdict(probe: Probe, *, annealed: bool = False) -> str:
  """Says in one sentence whether distilling this pair by SKD changes anything.

  The first that holds, by the bounds above: `unfit` (the teacher guesses the
  references), `too weak` (the teacher replaces
  most, or knows next to nothing of what the student generates), `too similar`
  (it replaces next to nothing), `too weak` (the student does not end), `fits`.

  Args:
    probe: what was found.
    annealed: whether the rule changes over the run; then it may replace most
      tokens at the start.

  Returns:
    "unfit: ...", "too similar: ...", "too weak: ..." or "fits: ...", with the
    numbers.
  """
  replaces = f"{probe.rule} replaces {probe.replaced:.1%} of the tokens"
  knows = (
    f"the teacher's entropy on the student's prefixes is "
    f"{probe.teacher_entropy:.2f} of {probe.max_entropy:.2f} nats"
  )
  gap = (
    f"KL(teacher || student) is {probe.kl:.2g} nats and the first choice is "
    f"the same at {probe.agreement:.0%} of the tokens"
  )
  ends = (
    f"{probe.truncated:.0%} of the student's responses reach the length limit"
  )
  if probe.teacher_loss > MOST_LOST * probe.max_entropy:
    return (
      "unfit: the teacher's loss on the references is "
      f"{probe.teacher_loss:.2f} nats a token, and guessing has "
      f"{probe.max_entropy:.2f} ({replaces}); "
      "look at example.txt, and whether its weights, tokenizer and template go "
      "together"
    )
  if probe.replaced > MOST_REPLACED and not annealed:
    return (
      f"too weak: {replaces}, so that responses are the teacher's; start the "
      "student from SFT, or accept more"
    )
  if probe.teacher_entropy > MOST_UNCERTAIN * probe.max_entropy:
    return (
      f"too weak: {knows}, so that what it accepts says little ({replaces}); "
      "start the student from SFT, or choose a stricter rule"
    )
  if probe.replaced < FEWEST_REPLACED:
    return (
      f"too similar: {replaces}, and {gap}: SKD is on-policy here, unless the "
      "rule is stricter"
    )
  if probe.truncated > MOST_TRUNCATED:
    return (
      f"too weak: {ends} ({replaces}); start the student from SFT, choose a "
      "stricter rule, or allow longer responses"
    )
  return f"fits: {replaces}, and {gap}"
