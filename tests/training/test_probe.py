"""What a pair is found to be before it is trained, against plain numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import builders, methods, models
from skd_jax import config as config_lib
from skd_jax.decoding import sampling, stopping
from skd_jax.models import loading
from skd_jax.parallel import sharding
from skd_jax.training import generation, probe
from tests import reference
from tests.conftest import make_batch
from tests.toy_models import LLAMA, noisy_params

SMALL = dataclasses.replace(LLAMA, num_layers=1)
V, T, EOS = SMALL.vocab_size, 6, 42
PROMPTS = [[7], [8, 9, 20], [11, 5], [30, 31, 32]]
STOPS = stopping.make_stop_table(V, (EOS,))


MODEL = models.create(SMALL)


def load(seed, scale):
  return loading.LoadedModel(SMALL, MODEL, noisy_params(SMALL, seed, scale))


STUDENT, SHARP = load(0, 0.35), load(2, 1.0)
# Near enough to the student to agree now and then.
TEACHER = dataclasses.replace(
  STUDENT,
  params=jax.tree.map(
    lambda x, y: 0.7 * x + 0.3 * y, STUDENT.params, load(1, 0.35).params
  ),
)
REFERENCES = [[12, EOS], [3, 4, 5, EOS], [EOS], [9, 40, EOS]]
BATCH = make_batch(PROMPTS, references=REFERENCES)
# Its last row only pads.
PADDED = dataclasses.replace(
  make_batch([*PROMPTS, [9]], references=[*REFERENCES, []]),
  index=jnp.asarray([0, 1, 2, 3, -1], jnp.int32),
)


def make_spec(method="skd", **changes):
  """Returns who generates by a method, at temperature 1."""
  config = methods.apply_method(config_lib.default_config(), method)
  plain = {
    f"rollout.{who}_{field}": 1.0
    for who in ("student", "teacher")
    for field in ("temperature", "top_p")
  }
  return builders.generation_spec(
    methods.change(config, plain | changes),
    max_new_tokens=T,
    num_draft_tokens=3,
  )


def make_keys(batch):
  return sampling.row_keys(0, 9, batch.index)


def one_device():
  return sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])


def find(spec, student, teacher, batch=BATCH):
  return probe.probe_pair(
    spec,
    student,
    teacher,
    STOPS,
    batch,
    make_keys(batch),
    mesh=one_device(),
    dtype=jnp.float32,
  )


def next_logits(loaded):
  """The model as a plain function of a sequence; one compilation."""
  size = max(map(len, PROMPTS)) + T
  head = loaded.model.head_params(loaded.params)

  @jax.jit
  def all_logits(tokens):
    positions = jnp.arange(size)[None]
    hidden, _ = loaded.model.apply(loaded.params, tokens, positions, None)
    return loaded.model.head(head, hidden[0])

  def logits(sequence):
    padded = np.zeros((1, size), np.int32)
    padded[0, : len(sequence)] = sequence
    return np.asarray(all_logits(padded)[len(sequence) - 1])

  return logits


def slow_teacher_loss():
  """The cross-entropy of TEACHER on REFERENCES, token by token."""
  logits = next_logits(TEACHER)
  losses = [
    -reference.log_softmax(logits([*prompt, *answer[:t]]))[token]
    for prompt, answer in zip(PROMPTS, REFERENCES, strict=True)
    for t, token in enumerate(answer)
  ]
  return np.mean(losses)


def slow_probe(accept, threshold):
  """The numbers of STUDENT and TEACHER, token by token."""
  both = next_logits(STUDENT), next_logits(TEACHER)
  keys = make_keys(BATCH)
  generate = functools.partial(
    reference.skd,
    *both,
    replace="sample",
    eos_id=EOS,
    max_new_tokens=T,
  )
  rows = list(zip(PROMPTS, keys, strict=True))
  judged = [
    source
    for prompt, key in rows
    for source in generate(prompt, key, accept=accept, threshold=threshold)[1]
  ]
  tokens, lengths, truncated = [], [], []
  for prompt, key in rows:
    response, _, _ = generate(prompt, key, accept="always", threshold=0)
    lengths.append(len(response))
    truncated.append(response[-1] != EOS)
    for t, token in enumerate(response):
      q, p = (logits([*prompt, *response[:t]]) for logits in both)
      tokens.append(
        {
          "outside_top_k": sorted(p, reverse=True).index(p[token]) >= 25,
          "teacher_entropy": -np.sum(
            reference.softmax(p) * reference.log_softmax(p)
          ),
          "kl": reference.kl(reference.softmax(p), reference.softmax(q)),
          "agreement": np.argmax(p) == np.argmax(q),
        }
      )
  return {
    "replaced": np.mean(judged),
    "rows": len(PROMPTS),
    "mean_length": np.mean(lengths),
    "truncated": np.mean(truncated),
    "max_entropy": np.log(V),
    "teacher_loss": slow_teacher_loss(),
    **{name: np.mean([x[name] for x in tokens]) for name in tokens[0]},
  }


@pytest.mark.parametrize(
  ("method", "threshold", "rule", "judged"),
  [
    # As its first step has it, whatever it becomes.
    ("skd", 9.0, "top_k 9", ("top_k", 9)),
    # Nobody judges in the run: the paper's rule does.
    pytest.param(
      *("on_policy_kd", 9.0, "top_k 25", ("top_k", 25)), marks=pytest.mark.slow
    ),
  ],
)
def test_numbers_equal_the_slow_ones(method, threshold, rule, judged):
  spec = make_spec(
    method,
    **{
      "rollout.threshold": threshold,
      "rollout.threshold_end": 1.0,
      "rollout.threshold_schedule": "linear",
    },
  )
  found = dataclasses.asdict(find(spec, STUDENT, TEACHER, PADDED))
  assert found.pop("rule") == rule
  expected = slow_probe(*judged)
  assert found == pytest.approx(expected, rel=1e-4)
  # Numbers that tell something.
  for name in ("replaced", "truncated", "outside_top_k", "agreement"):
    assert 0 < found[name] < 1, name


def test_top_25_are_the_ranks_below_25():
  logits = -jnp.arange(30.0)[None, :].repeat(2, axis=0)
  sums = probe._look_at(logits, logits, jnp.asarray([24, 25]))
  assert sums.outside_top_k.tolist() == [0, 1]


@pytest.mark.slow
def test_pair_of_one_model_is_too_similar():
  found = find(make_spec(), SHARP, SHARP)
  assert found.replaced == 0
  assert found.kl == pytest.approx(0, abs=1e-6)
  assert found.agreement == 1
  # Random weights do not know the references.
  known = dataclasses.replace(found, teacher_loss=1.0)
  assert probe.verdict(known).startswith("too similar: top_k 25 replaces 0.0%")


@pytest.mark.slow
def test_student_without_knowledge_is_too_weak_for_a_sharp_teacher():
  spec = make_spec(**{"rollout.threshold": 5.0})
  found = find(spec, load(3, 0.02), SHARP)
  assert found.replaced > 0.5
  assert found.kl > 1
  # Random weights do not know the references either.
  assert probe.verdict(found).startswith("unfit: the teacher's loss on ")
  known = dataclasses.replace(found, teacher_loss=1.0)
  assert probe.verdict(known).startswith("too weak: top_k 5 replaces ")


def test_annealed_rule_may_replace_most_at_the_start():
  found = dataclasses.replace(GOOD, replaced=0.55)
  assert probe.verdict(found).startswith("too weak: ")
  assert probe.verdict(found, annealed=True).startswith("fits: ")


def test_probe_changes_neither_weights_nor_rollouts():
  spec = make_spec()
  keys = sampling.row_keys(0, 0, BATCH.index)

  def rollout():
    rollout_fn = generation.make_rollout_fn(
      spec, STUDENT, TEACHER, STOPS, mesh=one_device(), dtype=jnp.float32
    )
    params = STUDENT.params, TEACHER.params
    result = rollout_fn(*params, BATCH, keys, jnp.float32(9))
    return jax.device_get((params, result))

  before = rollout()
  find(spec, STUDENT, TEACHER)
  jax.tree.map(np.testing.assert_array_equal, before, rollout())


GOOD = probe.Probe(
  rule="top_k 25",
  replaced=0.12,
  rows=16,
  mean_length=20.5,
  truncated=0.25,
  outside_top_k=0.06,
  teacher_entropy=1.5,
  max_entropy=10.0,
  kl=0.43,
  agreement=0.71,
  teacher_loss=1.2,
)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (
      {},
      "fits: top_k 25 replaces 12.0% of the tokens, and KL(teacher || student) "
      "is 0.43 nats and the first choice is the same at 71% of the tokens",
    ),
    (
      {"teacher_loss": 8.1},
      "unfit: the teacher's loss on the references is 8.10 nats a token, and "
      "guessing has 10.00",
    ),
    ({"teacher_loss": 8.0}, "fits: "),
    ({"replaced": 0.005}, "fits: top_k 25 replaces 0.5% "),
    ({"replaced": 0.004}, "too similar: top_k 25 replaces 0.4% "),
    ({"replaced": 0.5}, "fits: "),
    ({"replaced": 0.51}, "too weak: top_k 25 replaces 51.0% "),
    ({"truncated": 0.5}, "fits: "),
    ({"truncated": 0.6}, "too weak: 60% of the student's responses reach "),
    ({"teacher_entropy": 5.0}, "fits: "),
    (
      {"teacher_entropy": 5.1},
      "too weak: the teacher's entropy on the student's prefixes is 5.10 of "
      "10.00 nats",
    ),
    # A teacher that knows nothing accepts everything: that is not similarity.
    ({"teacher_entropy": 9.0, "replaced": 0.0}, "too weak: the teacher's "),
    # Whatever the lengths, next to nothing is replaced.
    ({"truncated": 0.9, "replaced": 0.0}, "too similar: "),
  ],
)
def test_verdict_follows_the_bounds(changes, said):
  sentence = probe.verdict(dataclasses.replace(GOOD, **changes))
  assert sentence.startswith(said)
  assert "\n" not in sentence
  # The share that is replaced is said whatever the reason.
  assert "replaces" in sentence


def test_rule_without_a_threshold_is_named_alone():
  found = find(make_spec(**{"rollout.accept": "never"}), STUDENT, TEACHER)
  assert found.rule == "never"
  assert found.replaced == 1
