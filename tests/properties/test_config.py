"""A setting of any value is used, or refused in one line that names it."""

import math

from hypothesis import given
from hypothesis import strategies as st

from skd_jax import builders, config_checks
from skd_jax import config as config_lib
from tests.properties.outcome import outcome


def _leaves(section, name=""):
  for field, value in section.items():
    if hasattr(value, "items") and len(value):
      yield from _leaves(value, f"{name}{field}.")
    else:
      yield f"{name}{field}", value


FIELDS = dict(_leaves(config_lib.default_config()))
CHOICES = [
  "skd",
  "on_policy",
  "teacher",
  "reference",
  "bridge",
  "divergence",
  "top_p",
  "residual",
  "argmax",
  "linear",
  "geometric",
  "step",
  "messages",
  "bleu",
  "cross_entropy",
  "jsd",
  "top_k_forward_kl",
  "verified",
  "accepted_only",
]
TEXTS = st.text() | st.sampled_from(CHOICES)
INTEGERS = st.integers(-2, 70) | st.integers() | st.sampled_from([2**31, 2**63])
TUPLES = st.lists(TEXTS | INTEGERS | st.none() | st.floats(), max_size=3)
OF_TYPE = {
  bool: st.booleans(),
  int: INTEGERS,
  float: st.floats() | st.floats(0, 1) | INTEGERS,
  str: TEXTS,
  tuple: (TUPLES | st.lists(TUPLES, max_size=1)).map(tuple),
}
SECTIONS = st.dictionaries(
  TEXTS,
  TEXTS | INTEGERS | st.dictionaries(st.sampled_from([*FIELDS]), TEXTS),
  max_size=2,
)
TASKS = st.dictionaries(
  st.sampled_from(["sums", "mean", "two words"]),
  st.sampled_from([f[5:] for f in FIELDS if f.startswith("data.")]).flatmap(
    lambda field: st.fixed_dictionaries({field: _values(f"data.{field}")})
  ),
)


def _values(field):
  if field == "tasks":
    return SECTIONS | TASKS
  usual = OF_TYPE.get(type(FIELDS[field]), SECTIONS)
  return st.one_of(usual, usual, usual, st.none())


CHANGES = st.lists(
  st.sampled_from([*FIELDS]).flatmap(
    lambda field: st.tuples(st.just(field), _values(field))
  ),
  min_size=1,
  max_size=3,
).map(dict)


@given(CHANGES)
def test_odd_values_are_used_or_refused_in_one_line(changes):
  config = config_lib.default_config()
  for field, value in changes.items():
    *sections, name = field.split(".")
    section = config_lib.get(config, ".".join(sections)) if sections else config
    try:
      section[name] = value
    except (TypeError, KeyError, ValueError):  # Of ml_collections.
      return
  _, refusal = outcome(config_checks.check_config, config)
  if refusal:
    _assert_names(refusal, changes)
  else:
    _use(config)


def _assert_names(message, changes):
  names = [field.rpartition(".")[2] for field in changes]
  if "vocab_size" in names:
    names += ["rollout.threshold", "loss.k"]  # What it bounds.
  assert any(name in message for name in names), message


def _use(config):
  """Builds what a run of these settings begins with."""
  builders.task_settings(config)
  spec = builders.generation_spec(config, max_new_tokens=64, num_draft_tokens=1)
  builders.token_loss(config, config.tokenizer.vocab_size)
  for schedule in (spec.threshold, spec.reference_share, spec.first_tokens):
    for step in (0, 1, config.distill.num_steps - 1):
      low, high = min(schedule.extremes), max(schedule.extremes)
      value = schedule(max(step, 0))
      assert not math.isnan(value)
      slack = 1e-6 * max(abs(low), abs(high))
      assert low - slack <= value <= high + slack
