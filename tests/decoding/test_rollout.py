"""The batched loop generates what the plain loop over tokens generates."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from skd_jax import structs
from skd_jax.decoding import acceptance, loop, sampling, stopping
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding.policy import Policy
from skd_jax.models import forward
from tests import reference
from tests.conftest import (
  make_batch,
  trigram_logits,
  trigram_model,
  trigram_params,
)

pytestmark = pytest.mark.usefixtures("strict")


V = 7
EOS = 0
MODEL = trigram_model()
STUDENT = trigram_params(V, seed=0, scale=1.5)
TEACHER = trigram_params(V, seed=1, scale=1.5)
PROMPTS = [[3], [1, 2, 5], [4, 4], [2, 6, 1, 3, 5], [5, 1]]
THRESHOLDS = {
  "top_k": 2,
  "top_p": 0.6,
  "prob_floor": 0.2,
  "mixture": 0.4,
  "lossless": 0,
  "always": 0,
  "never": 0,
  "random": 0.4,
  "released_top_k": 2,
  "bridge": 0.2,
  "divergence": 0.2,
}
# Fields of a rule that limit its interventions, and a few of what they do.
_FAST = ("top_k", "bridge")
BUDGETS = [
  ("prob_floor", "sample", {"leg_length": 3}),
  ("prob_floor", "argmax", {"leg_length": 2, "max_interventions": 2}),
  ("top_k", "sample", {"max_interventions": 1}),
  ("bridge", "residual", {"leg_length": 3, "max_interventions": 2}),
  ("divergence", "sample", {"threshold_decay": 0.3}),
]


@functools.partial(
  jax.jit,
  static_argnames=(
    "rule",
    "num_draft_tokens",
    "max_new_tokens",
    "batch_size",
    "student_sampling",
    "teacher_sampling",
  ),
)
def run(
  batch,
  keys,
  threshold,
  *,
  rule,
  num_draft_tokens=3,
  max_new_tokens=9,
  batch_size=None,
  student_sampling=sampling.Sampling(),
  teacher_sampling=sampling.Sampling(),
  stop_table=None,
):
  if stop_table is None:
    stop_table = stopping.make_stop_table(V, (EOS,))
  return rollout_lib.rollout(
    Policy(STUDENT, MODEL, student_sampling),
    Policy(TEACHER, MODEL, teacher_sampling),
    batch,
    keys,
    stop_table,
    threshold,
    rule=rule,
    num_draft_tokens=num_draft_tokens,
    max_new_tokens=max_new_tokens,
    batch_size=batch_size,
  )


def row_keys(num_rows, seed=0):
  return jax.random.split(jax.random.key(seed), num_rows)


def as_lists(result, field="tokens"):
  values = np.asarray(getattr(result, field))
  return [
    row[:n].tolist()
    for row, n in zip(values, np.asarray(result.length), strict=True)
  ]


def assert_states_of_the_teacher(result, batch):
  """`teacher_hidden` is what a separate pass of the teacher computes."""
  separate = forward.response_hidden(
    MODEL, TEACHER, batch.prompt, batch.prompt_length, result.tokens
  )
  for row, length in enumerate(np.asarray(result.length)):
    np.testing.assert_allclose(
      result.teacher_hidden[row, :length], separate[row, :length], rtol=1e-6
    )


def replacements(accept):
  return acceptance.RULES[accept].replace[:1]


@pytest.mark.parametrize(
  ("accept", "replace", "budget"),
  [
    *BUDGETS[-2:],
    *((a, replacements(a)[0], {}) for a in _FAST),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in BUDGETS[:-2]),
    # Each is judged as the reference judges it in test_verification.py.
    *(
      pytest.param(a, r, {}, marks=pytest.mark.slow)
      for a, r in [
        *((a, replacements(a)[0]) for a in THRESHOLDS if a not in _FAST),
        ("top_k", "argmax"),
      ]
    ),
  ],
)
def test_rollout_equals_the_reference(accept, replace, budget):
  how = {
    "student_sampling": sampling.Sampling(1.3, 0.95),
    "teacher_sampling": sampling.Sampling(0.8, 0.9),
  }
  keys = row_keys(len(PROMPTS), seed=3)
  threshold = jnp.float32(THRESHOLDS[accept])
  result = run(
    make_batch(PROMPTS),
    keys,
    threshold,
    rule=acceptance.Rule(accept, replace, **budget),
    **how,
  )
  expected = [
    reference.skd(
      trigram_logits(STUDENT),
      trigram_logits(TEACHER),
      prompt,
      key,
      accept=accept,
      replace=replace,
      threshold=THRESHOLDS[accept],
      eos_id=EOS,
      max_new_tokens=9,
      **budget,
      **how,
    )
    for prompt, key in zip(PROMPTS, keys, strict=True)
  ]
  assert as_lists(result) == [tokens for tokens, _, _ in expected]
  assert as_lists(result, "source") == [sources for _, sources, _ in expected]
  assert as_lists(result, "draft_tokens") == [draft for *_, draft in expected]


@pytest.mark.parametrize(
  ("accept", "num_draft_tokens"),
  [
    ("top_k", 1),
    pytest.param("mixture", 5, marks=pytest.mark.slow),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [
        *itertools.product(["top_k"], [2, 5, 12]),
        ("random", 5),
        ("released_top_k", 5),
      ]
    ),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in itertools.product(["mixture", "random"], [1, 2, 12])
    ),
  ],
)
def test_tokens_do_not_depend_on_the_draft_length(accept, num_draft_tokens):
  arguments = dict(rule=acceptance.Rule(accept, replacements(accept)[0]))
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  threshold = jnp.float32(THRESHOLDS[accept])
  base = run(batch, keys, threshold, num_draft_tokens=3, **arguments)
  other = run(
    batch, keys, threshold, num_draft_tokens=num_draft_tokens, **arguments
  )
  for field in ("tokens", "source", "draft_tokens"):
    assert as_lists(base, field) == as_lists(other, field)
  np.testing.assert_array_equal(base.stopped, other.stopped)


@pytest.mark.slow
@pytest.mark.parametrize("num_draft_tokens", [1, 5])
def test_budget_is_spent_alike_for_every_draft_length(num_draft_tokens):
  accept, replace, budget = BUDGETS[3]
  rule = acceptance.Rule(accept, replace, **budget)
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  threshold = jnp.float32(THRESHOLDS[accept])
  base = run(batch, keys, threshold, rule=rule)
  other = run(
    batch, keys, threshold, rule=rule, num_draft_tokens=num_draft_tokens
  )
  assert any(sum(row) > 2 for row in as_lists(base, "source"))
  for field in ("tokens", "source", "draft_tokens"):
    assert as_lists(base, field) == as_lists(other, field)


def test_leg_costs_fewer_rounds_than_tokens_where_the_draft_guesses_it():
  rule = acceptance.Rule("never", "sample", leg_length=9)
  result = jax.jit(
    lambda: rollout_lib.rollout(
      Policy(TEACHER, MODEL, sampling.GREEDY),
      Policy(TEACHER, MODEL, sampling.GREEDY),
      make_batch(PROMPTS),
      row_keys(len(PROMPTS)),
      stopping.make_stop_table(V, ()),
      jnp.float32(0),
      rule=rule,
      num_draft_tokens=3,
      max_new_tokens=9,
    )
  )()
  assert np.all(result.source == structs.TEACHER)
  # One token, then three a round.
  assert result.num_rounds.tolist() == [4] * len(PROMPTS)


def test_slot_that_is_refilled_has_its_budget_again():
  rule = acceptance.Rule("never", "sample", max_interventions=1)
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  result = run(batch, keys, jnp.float32(0), rule=rule, batch_size=1)
  for row in as_lists(result, "source"):
    assert row == [1] + [0] * (len(row) - 1)


def test_rows_do_not_depend_on_their_batch():
  keys = row_keys(len(PROMPTS))
  arguments = dict(rule=acceptance.Rule())
  together = as_lists(
    run(make_batch(PROMPTS), keys, jnp.float32(2), **arguments)
  )
  for row, prompt in enumerate(PROMPTS):
    # Alone, and in a wider prompt buffer than it needs.
    alone = run(
      make_batch([prompt], prompt_size=8),
      keys[row : row + 1],
      jnp.float32(2),
      **arguments,
    )
    assert as_lists(alone) == [together[row]]


# 1, 2 and 3 slots are refilled one at a time, 17 and 20 two at a time; 17 is
# odd, so that a slot stays empty at first.
@pytest.mark.parametrize(
  "batch_size",
  [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 17, 20))],
)
def test_rows_do_not_depend_on_the_queue(batch_size):
  prompts = PROMPTS * (1 if batch_size < 5 else 5)
  keys = row_keys(len(prompts))
  batch = make_batch(prompts)
  # Rows that only pad: the first, and one in the middle.
  padding = jnp.arange(len(prompts)) % len(PROMPTS) == 3
  batch = batch.replace(
    index=jnp.where(padding.at[0].set(True), -1, batch.index)
  )
  arguments = dict(rule=acceptance.Rule())
  threshold = jnp.float32(2)
  at_once = run(batch, keys, threshold, **arguments)
  queued = run(batch, keys, threshold, batch_size=batch_size, **arguments)
  assert len(set(np.asarray(at_once.length).tolist())) > 2
  for field in ("tokens", "source", "draft_tokens"):
    assert as_lists(queued, field) == as_lists(at_once, field)
  for field in ("length", "stopped", "num_rounds"):
    np.testing.assert_array_equal(
      getattr(queued, field), getattr(at_once, field)
    )
  np.testing.assert_allclose(
    queued.teacher_hidden, at_once.teacher_hidden, rtol=1e-6
  )


def test_slot_that_has_no_row_yet_reads_at_a_slot_of_its_cache():
  state = loop.init_state(
    ((MODEL, STUDENT),),
    make_batch(PROMPTS),
    batch_size=3,
    max_new_tokens=9,
    num_draft_tokens=2,
    keep_teacher_hidden=False,
  )
  # The positions of a draft must ascend, and a negative one counts from the
  # end.
  assert int(jnp.min(state.prompt_length - 1 + state.length)) >= 0


@pytest.mark.slow
def test_a_lone_model_decodes_the_same_from_a_queue():
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  results = [
    rollout_lib.decode(
      Policy(STUDENT, MODEL),
      batch,
      keys,
      stopping.make_stop_table(V, (EOS,)),
      max_new_tokens=9,
      batch_size=batch_size,
    )
    for batch_size in (None, 2)
  ]
  assert as_lists(results[0]) == as_lists(results[1])


def test_a_lone_row_on_a_gpu_has_a_second_slot_that_stays_free(monkeypatch):
  arguments = make_batch(PROMPTS[2:3]), row_keys(1), jnp.float32(2)
  expected = run(*arguments, rule=acceptance.Rule())
  slots, init_state = [], loop.init_state

  def init(*models_and_batch, batch_size, **options):
    slots.append(batch_size)
    return init_state(*models_and_batch, batch_size=batch_size, **options)

  monkeypatch.setattr(loop, "init_state", init)
  monkeypatch.setattr(loop.sharding, "platform", lambda: "gpu")
  # Not what is compiled already.
  again = jax.jit(functools.partial(run.__wrapped__, rule=acceptance.Rule()))
  found = again(*arguments)
  assert slots == [2]
  assert as_lists(found) == as_lists(expected)
  assert found.tokens.shape == expected.tokens.shape
  np.testing.assert_array_equal(found.num_rounds, expected.num_rounds)


def test_more_slots_than_prompts_are_refused():
  with pytest.raises(ValueError, match=r"batch_size = 9: must be in \[1, 5"):
    run(
      make_batch(PROMPTS),
      row_keys(len(PROMPTS)),
      jnp.float32(2),
      rule=acceptance.Rule(),
      batch_size=9,
    )


def test_top_k_of_the_whole_vocabulary_is_the_student_alone():
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  skd = run(batch, keys, jnp.float32(V), rule=acceptance.Rule())
  alone = rollout_lib.decode(
    Policy(STUDENT, MODEL),
    batch,
    keys,
    stopping.make_stop_table(V, (EOS,)),
    max_new_tokens=9,
  )
  assert as_lists(skd) == as_lists(alone)
  assert not np.any(skd.source)


def test_never_is_the_teacher_alone():
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  skd = run(
    batch, keys, jnp.float32(0), rule=acceptance.Rule("never", "sample")
  )
  alone = rollout_lib.decode(
    Policy(TEACHER, MODEL),
    batch,
    keys,
    stopping.make_stop_table(V, (EOS,)),
    max_new_tokens=9,
    source=structs.TEACHER,
  )
  assert as_lists(skd) == as_lists(alone)
  assert as_lists(skd, "source") == as_lists(alone, "source")


@pytest.mark.slow
@pytest.mark.parametrize(
  "accept",
  # Speculative decoding tries lossless as well.
  ["lossless", "mixture", "bridge"],
)
def test_exact_rules_follow_their_distribution(accept):
  """Chi-square against the probabilities of all responses of 3 tokens."""
  num_rows, num_tokens = 30_000, 3
  threshold = THRESHOLDS[accept] or 1.0
  # Both are warped: the warped distributions are what counts.
  how = {
    "student_sampling": sampling.Sampling(1.2, 0.9),
    "teacher_sampling": sampling.Sampling(0.9, 1.0),
  }

  def next_distribution(student, teacher):
    p = reference.sampling_distribution(student, how["student_sampling"])
    q = reference.sampling_distribution(teacher, how["teacher_sampling"])
    if accept == "bridge":
      return reference.bridge(p, q, threshold)
    return (1 - threshold) * p + threshold * q

  prompt = [3, 2]
  batch = make_batch([prompt] * num_rows)
  result = run(
    batch,
    row_keys(num_rows, seed=5),
    jnp.float32(threshold),
    rule=acceptance.Rule(accept, "residual"),
    max_new_tokens=num_tokens,
    stop_table=stopping.make_stop_table(V, ()),
    **how,
  )
  exact = reference.response_distribution(
    trigram_logits(STUDENT),
    trigram_logits(TEACHER),
    prompt,
    next_distribution=next_distribution,
    num_tokens=num_tokens,
  )
  codes = np.asarray(result.tokens) @ (V ** np.arange(num_tokens))
  counts = np.bincount(codes, minlength=V**num_tokens)
  expected = np.zeros(V**num_tokens)
  for response, mass in exact.items():
    expected[np.asarray(response) @ (V ** np.arange(num_tokens))] = mass
  expected *= num_rows
  assert counts[expected == 0].sum() == 0
  # Rare responses share one cell, as the test requires.
  rare = expected < 5
  pooled = [
    np.append(x[~rare], x[rare].sum() + 1e-9) for x in (counts, expected)
  ]
  pooled[1] *= pooled[0].sum() / pooled[1].sum()
  assert stats.chisquare(*pooled).pvalue > 1e-3


def test_teacher_hidden_is_what_a_separate_pass_would_compute():
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  result = run(batch, keys, jnp.float32(2), rule=acceptance.Rule())
  assert_states_of_the_teacher(result, batch)


def test_lone_teacher_keeps_the_states_that_it_drew_from():
  batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
  result = rollout_lib.decode(
    Policy(TEACHER, MODEL),
    batch,
    keys,
    stopping.make_stop_table(V, (EOS,)),
    max_new_tokens=9,
    source=structs.TEACHER,
    keep_hidden=True,
  )
  assert_states_of_the_teacher(result, batch)


def test_a_row_stops_at_a_stop_sequence_of_several_tokens():
  stop = (2, 5)
  table = stopping.make_stop_table(V, (), (stop,))
  num_rows = 200
  batch, keys = make_batch([[3, 2]] * num_rows), row_keys(num_rows)
  arguments = dict(rule=acceptance.Rule(), max_new_tokens=20)
  result = run(batch, keys, jnp.float32(3), stop_table=table, **arguments)
  free = run(
    batch,
    keys,
    jnp.float32(3),
    stop_table=stopping.make_stop_table(V, ()),
    **arguments,
  )
  # The prompt ends with 2: a 5 right behind it does not complete the stop.
  stopped = 0
  for tokens, whole, flag in zip(
    as_lists(result), as_lists(free), np.asarray(result.stopped), strict=True
  ):
    ends = [i for i in range(2, 21) if tuple(whole[i - 2 : i]) == stop]
    assert tokens == whole[: ends[0]] if ends else tokens == whole
    assert flag == bool(ends)
    stopped += bool(ends)
  assert 20 < stopped < num_rows


@pytest.mark.slow
def test_each_row_ends_at_the_limit_and_the_stops_of_its_task():
  # Rows of three tasks in one batch get what each task gets alone.
  stops = [((2, 5),), (), ((3,), (4, 4))]
  limits = [12, 7, 3]
  tables = [stopping.make_stop_table(V, (EOS,), s) for s in stops]
  task_id = [0, 2, 1] * 40
  keys = row_keys(len(task_id))
  together = run(
    make_batch(
      [[3, 2]] * len(task_id),
      task_id=task_id,
      max_new_tokens=[limits[i] for i in task_id],
    ),
    keys,
    jnp.float32(3),
    rule=acceptance.Rule(),
    max_new_tokens=12,
    stop_table=stopping.join_stop_tables(tables),
  )
  for task in range(3):
    rows = np.flatnonzero(np.asarray(task_id) == task)
    alone = run(
      make_batch([[3, 2]] * len(rows)),
      keys[rows],
      jnp.float32(3),
      rule=acceptance.Rule(),
      max_new_tokens=limits[task],
      stop_table=tables[task],
    )
    of_task = jax.tree.map(lambda x, rows=rows: x[rows], together)
    for field in ("tokens", "source", "draft_tokens"):
      assert as_lists(of_task, field) == as_lists(alone, field)
    np.testing.assert_array_equal(of_task.stopped, alone.stopped)
    np.testing.assert_array_equal(of_task.num_rounds, alone.num_rounds)
    # Some rows end at the limit, and some by a stop or EOS before it.
    assert max(alone.length) == limits[task]
    assert min(alone.length) < limits[task]


def test_limit_of_a_row_never_exceeds_the_buffer():
  batch = make_batch(PROMPTS, max_new_tokens=[50, 2, 50, 1, 4])
  result = run(
    batch,
    row_keys(len(PROMPTS)),
    jnp.float32(3),
    rule=acceptance.Rule(),
    max_new_tokens=4,
    stop_table=stopping.make_stop_table(V, ()),
  )
  assert result.length.tolist() == [4, 2, 4, 1, 4]


def test_only_the_released_rule_draws_twice(monkeypatch):
  draw_uniform, roles = sampling.draw_uniform, set()

  def watched(row_keys, role, position):
    roles.add(role)
    return draw_uniform(row_keys, role, position)

  monkeypatch.setattr(sampling, "draw_uniform", watched)
  for accept in THRESHOLDS:
    roles.clear()
    arguments = dict(rule=acceptance.Rule(accept, replacements(accept)[0]))
    # Traced again: no other test has this length.
    arguments |= dict(max_new_tokens=2, num_draft_tokens=2)
    batch, keys = make_batch(PROMPTS), row_keys(len(PROMPTS))
    jax.eval_shape(
      functools.partial(run, **arguments), batch, keys, jnp.float32(2)
    )
    assert sampling.STUDENT_DRAW in roles
    assert (sampling.SECOND_DRAW in roles) == (accept == "released_top_k")


@pytest.mark.slow
def test_released_rule_keeps_a_token_that_it_would_not_accept():
  # A greedy teacher accepts its first choice alone; the check is of another
  # draw than the token that is kept.
  num_rows = 300
  result = run(
    make_batch([[3]] * num_rows),
    row_keys(num_rows),
    jnp.float32(25),
    rule=acceptance.Rule("released_top_k", "sample"),
    max_new_tokens=1,
    teacher_sampling=sampling.GREEDY,
  )
  best = int(np.argmax(trigram_logits(TEACHER)([3])))
  tokens, source = np.asarray(result.tokens)[:, 0], np.asarray(result.source)
  kept = source[:, 0] == structs.STUDENT
  share = reference.softmax(trigram_logits(STUDENT)([3]))[best]
  assert np.mean(kept) == pytest.approx(share, abs=0.1)
  assert np.mean(tokens[kept] != best) > 0
  assert np.all(tokens[~kept] == best)


def test_eos_only_ends_a_row_that_sampled_it():
  num_rows = 100
  result = run(
    make_batch([[3]] * num_rows),
    row_keys(num_rows),
    jnp.float32(3),
    rule=acceptance.Rule(),
    max_new_tokens=6,
  )
  for tokens, stopped in zip(
    as_lists(result), np.asarray(result.stopped), strict=True
  ):
    assert (EOS in tokens) == stopped
    assert EOS not in tokens[:-1]
    assert stopped or len(tokens) == 6
  assert 0 < np.sum(result.stopped) < num_rows


def test_rows_that_only_pad_stay_empty():
  batch = make_batch(PROMPTS[:2])
  batch = batch.replace(index=jnp.asarray([0, -1], jnp.int32))
  result = run(batch, row_keys(2), jnp.float32(2), rule=acceptance.Rule())
  assert result.length[0] > 0
  assert result.length[1] == 0
  assert result.num_rounds[1] == 0


def test_rounds_count_teacher_passes_of_live_rows():
  # Everything is replaced: one token a round, whatever the draft length.
  result = run(
    make_batch(PROMPTS),
    row_keys(len(PROMPTS)),
    jnp.float32(0),
    rule=acceptance.Rule("never", "sample"),
    num_draft_tokens=4,
  )
  np.testing.assert_array_equal(result.num_rounds, result.length)


@pytest.mark.parametrize("name", ["num_draft_tokens", "max_new_tokens"])
def test_no_tokens_at_all_are_refused(name):
  batch = make_batch(PROMPTS)
  with pytest.raises(ValueError, match=f"^{name} = 0: must be at least 1"):
    run(
      batch,
      row_keys(len(PROMPTS)),
      jnp.float32(2),
      rule=acceptance.Rule("top_k"),
      **{name: 0},
    )
