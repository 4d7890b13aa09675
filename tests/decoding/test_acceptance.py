"""Every acceptance rule by its plain formula, and the table of the rules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding import acceptance, sampling
from tests import reference

pytestmark = pytest.mark.usefixtures("strict")

B, G, V = 30, 4, 11
STUDENT = sampling.Sampling(1.3, 0.95)
TEACHER = sampling.Sampling(0.8, 0.9)
THRESHOLDS = {
  "top_k": (1, 3, V),
  "top_p": (0.2, 0.8),
  "prob_floor": (0.0, 0.1, 0.4),
  "mixture": (0.0, 0.3, 1.0),
  "lossless": (0,),
  "always": (0,),
  "never": (0,),
  "random": (0.0, 0.3, 1.0),
  "released_top_k": (1, 3),
  "bridge": (0.0, 0.1, 1.0, 50.0),
  "divergence": (0.0, 0.1, 0.3, math.log(2)),
}


def make_inputs(seed=0):
  """Drafted tokens [B, G], another draw of each, and what is known of them."""
  rng = np.random.default_rng(seed)
  student, teacher = 1.5 * rng.normal(size=(2, B, G, V)).astype(np.float32)
  p = sampling.warp(jnp.asarray(student), STUDENT)
  tokens, again = (
    jax.random.categorical(jax.random.key(seed + i), p).astype(jnp.int32)
    for i in range(2)
  )
  own = jnp.take_along_axis(p, tokens[..., None], axis=-1)[..., 0]
  inputs = acceptance.VerificationInputs(
    tokens=tokens,
    teacher_logits=jnp.asarray(teacher),
    student_log_prob=own,
    teacher_log_probs=sampling.warp(jnp.asarray(teacher), TEACHER),
    uniform=jnp.asarray(rng.random((B, G)), jnp.float32),
    student_logits=lambda: jnp.asarray(student),
    draw_again=lambda: again,
    student_sampling=STUDENT,
    teacher_sampling=TEACHER,
  )
  return inputs, np.asarray(student), np.asarray(again)


@pytest.mark.parametrize(
  ("accept", "threshold"),
  [(name, value) for name, values in THRESHOLDS.items() for value in values],
)
def test_rule_decides_as_its_plain_formula(accept, threshold):
  inputs, student, again = make_inputs()
  found = acceptance.RULES[accept].accept(inputs, jnp.float32(threshold))
  assert (found.shape, found.dtype) == ((B, G), jnp.bool)
  for b, g in np.ndindex(B, G):
    teacher = np.asarray(inputs.teacher_logits)[b, g]
    expected = reference.accepts(
      accept,
      int(inputs.tokens[b, g]),
      reference.sampling_distribution(student[b, g], STUDENT),
      reference.sampling_distribution(teacher, TEACHER),
      float(inputs.uniform[b, g]),
      threshold,
      (student[b, g], teacher),
      TEACHER,
      again[b, g],
    )
    assert bool(found[b, g]) == expected, (b, g)


def test_every_rule_is_tried():
  assert THRESHOLDS.keys() == acceptance.RULES.keys()


@pytest.mark.parametrize(
  ("field", "rules"),
  [
    ("draw_again", ["released_top_k"]),
    ("student_logits", ["bridge", "divergence"]),
  ],
)
def test_what_costs_much_is_asked_for_by_few_rules(field, rules):
  inputs = make_inputs()[0].replace(**{field: None})
  for name, rule in acceptance.RULES.items():
    if name in rules:
      with pytest.raises(ValueError, match=f"{name}.* needs {field}"):
        rule.accept(inputs, jnp.float32(1))
    else:
      rule.accept(inputs, jnp.float32(1))


def test_rules_with_bounds_are_those_that_look_at_the_threshold():
  inputs, *_ = make_inputs()
  for name, rule in acceptance.RULES.items():
    low, high = (
      rule.accept(inputs, jnp.float32(value))
      for value in (rule.low or 0, V if rule.high is None else rule.high)
    )
    assert bool(jnp.any(low != high)) == (rule.low is not None), name


@pytest.mark.parametrize(
  ("name", "share_at_low", "share_at_high"),
  [
    ("top_k", None, 1.0),
    ("top_p", 0.0, 1.0),
    ("prob_floor", 1.0, 0.0),
    ("mixture", 1.0, None),
    ("random", 1.0, 0.0),
    ("bridge", 1.0, None),
    ("divergence", 0.0, 1.0),
    ("released_top_k", None, None),
  ],
)
def test_bounds_are_where_a_rule_accepts_all_or_nothing(
  name, share_at_low, share_at_high
):
  rule = acceptance.RULES[name]
  inputs, *_ = make_inputs()
  high = V if rule.high is None else rule.high
  for value, share in ((rule.low, share_at_low), (high, share_at_high)):
    found = float(jnp.mean(rule.accept(inputs, jnp.float32(value))))
    assert found == share if share is not None else 0 < found < 1


def test_top_p_of_one_accepts_what_rounding_leaves_no_mass():
  inputs, *_ = make_inputs()
  peaked = jnp.zeros((B, G, V)).at[..., 0].set(30.0)
  least = dataclasses.replace(
    inputs, teacher_logits=peaked, tokens=jnp.full((B, G), V - 1)
  )
  assert bool(jnp.all(acceptance.accept_top_p(least, jnp.float32(1))))
  assert not bool(jnp.any(acceptance.accept_top_p(least, jnp.float32(0.99))))


def test_table_says_what_goes_with_a_rule():
  for name, rule in acceptance.RULES.items():
    assert set(rule.replace) <= set(acceptance.REPLACEMENTS), name
    is_exact = name in ("mixture", "lossless", "bridge")
    assert rule.replace == (("residual",) if is_exact else rule.replace), name
    assert ("residual" in rule.replace) == is_exact, name
    assert rule.whole_numbers == name.endswith("top_k"), name
    # Only these are bounded by the vocabulary.
    has_threshold = rule.low is not None
    assert (rule.high is None) == (rule.whole_numbers or not has_threshold)
  assert {n for n, r in acceptance.RULES.items() if r.low is None} == {
    "lossless",
    "always",
    "never",
  }


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"accept": "topk"}, r"accept = 'topk': must be one of \['always', "),
    ({"replace": "best"}, r"replace = 'best': must be one of \['sample', "),
    ({"threshold_decay": -1.0}, r"threshold_decay = -1.0: must be 0 or above"),
    ({"threshold_decay": math.nan}, r"threshold_decay = nan: must be 0"),
    ({"leg_length": 0}, r"leg_length = 0: must be 1 or above"),
    (
      {"max_interventions": 0},
      r"max_interventions = 0: must be 1 or above, or",
    ),
  ],
)
def test_bad_fields_of_a_rule_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    acceptance.Rule(**fields)


def test_rule_takes_a_name_or_a_function():
  def accept_even(inputs, threshold):
    del threshold
    return inputs.tokens % 2 == 0

  assert acceptance.Rule().accept_fn is acceptance.accept_top_k
  assert acceptance.Rule("random").accept_fn is acceptance.accept_random
  assert acceptance.Rule(accept_even).accept_fn is accept_even
  assert hash(acceptance.Rule(accept_even)) is not None


def test_rank_counts_the_logits_above():
  logits = jnp.asarray([3.0, 1.0, 3.0, 2.0, -jnp.inf])
  ranks = acceptance.token_rank(jnp.tile(logits, (5, 1)), jnp.arange(5))
  assert ranks.tolist() == [0, 3, 0, 2, 4]
