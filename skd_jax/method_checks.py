"""Checks of who generates, who corrects, and what is learned from it."""

import math
from collections.abc import Iterator

import ml_collections

from skd_jax import builders
from skd_jax import config as config_lib
from skd_jax import field_checks as fields
from skd_jax.decoding import acceptance, sampling
from skd_jax.losses import cached
from skd_jax.training import generation, schedules

# What limits interventions, and its value where nothing does.
_NO_BUDGET = {"threshold_decay": 0, "leg_length": 1, "max_interventions": 0}


def check_method(config: ml_collections.ConfigDict) -> None:
  """Checks the sections rollout and loss, field by field.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  fields.one_of(config, "rollout.mode", generation.MODES)
  fields.one_of(config, "loss.objective", ("divergence", "cross_entropy"))
  fields.at_least(config, "loss.verified_k", 1)
  fields.in_unit_interval(config, "loss.unverified_weight")
  fields.one_of(config, "rollout.max_staleness", (0, 1))
  fields.at_least(config, "teacher_cache.top_k", 0)
  fields.at_least(config, "teacher_cache.num_responses", 1)
  fields.at_least(config, "teacher_cache.verify_records", 0)
  _check_lengths(config)
  _check_rollout(config)


def _check_lengths(config: ml_collections.ConfigDict) -> None:
  """Checks what is bounded by the longest response."""
  name, longest = max(
    (
      (name, section.max_new_tokens)
      for name, section in config_lib.task_sections(config).items()
    ),
    key=lambda entry: entry[1],
  )
  bound = f"{name}.max_new_tokens = {longest}"
  settings = config.rollout
  if not 0 <= settings.num_draft_tokens <= longest:
    raise ValueError(
      f"rollout.num_draft_tokens = {settings.num_draft_tokens}: must be in "
      f"[0, {bound}]"
    )
  shape = settings.first_tokens_schedule
  least = 0 if shape == "constant" else 1
  for field in ("first_tokens", "first_tokens_end"):
    if not least <= settings[field] <= longest:
      raise ValueError(
        f"rollout.{field} = {settings[field]} with "
        f"rollout.first_tokens_schedule = {shape!r}: must be in [{least}, "
        f"{bound}]"
      )


def _check_rollout(config: ml_collections.ConfigDict) -> None:
  for field in ("threshold", "reference_share", "first_tokens"):
    shapes = schedules.SHAPES
    if field == "threshold":
      shapes += (schedules.BY_DISTANCE,)
    fields.one_of(config, f"rollout.{field}_schedule", shapes)
  for field in ("reference_share", "reference_share_end", "switch_at"):
    fields.in_unit_interval(config, f"rollout.{field}")
  for who in ("student", "teacher"):
    with fields.prefix(f"rollout.{who}_"):
      sampling.Sampling(
        config.rollout[f"{who}_temperature"], config.rollout[f"{who}_top_p"]
      )
  accept, replace = config.rollout.accept, config.rollout.replace
  fields.at_least(config, "rollout.max_interventions", 0)
  with fields.prefix("rollout."):
    builders.rule(config)
  rule = acceptance.RULES[accept]
  if replace not in rule.replace:
    raise ValueError(
      f"rollout.replace = {replace!r} with rollout.accept = {accept!r}: must "
      f"be one of {list(rule.replace)}"
    )
  shape = config.rollout.threshold_schedule
  if shape != "constant" and rule.low is None:
    raise ValueError(
      f"rollout.threshold_schedule = {shape!r} with rollout.accept = "
      f"{accept!r}, which has no threshold: must be 'constant'"
    )
  if shape == schedules.BY_DISTANCE:
    _check_distance(config.rollout)
  if accept == "bridge" and config.rollout.teacher_temperature == 0:
    raise ValueError(
      "rollout.teacher_temperature = 0 with rollout.accept = 'bridge': must be "
      "above 0, as a bridge needs a teacher that gives every token some "
      "probability"
    )
  for field in ("threshold", "reference_share", "first_tokens"):
    with fields.prefix(f"rollout.{field}_"):
      builders.schedule(config, field)


def _check_distance(settings: ml_collections.ConfigDict) -> None:
  asked = "rollout.threshold_schedule = 'distance'"
  for field, value in (
    ("accept", "mixture"),
    ("threshold_decay", 0.0),
    ("leg_length", 1),
    ("max_interventions", 0),
  ):
    if settings[field] != value:
      raise ValueError(
        f"rollout.{field} = {settings[field]!r} with {asked}: must be {value!r}"
      )
  least, largest = settings.threshold_end, settings.threshold
  if not 0 < least <= largest:
    raise ValueError(
      f"rollout.threshold_end = {least} with {asked}: must be above 0, and at "
      f"most rollout.threshold = {largest}"
    )


def check_threshold(config: ml_collections.ConfigDict, vocab_size: int) -> None:
  """Checks the threshold, which the vocabulary can bound.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  settings = config.rollout
  rule = acceptance.RULES[settings.accept]
  if rule.low is None:
    return
  fields = ["threshold"]
  if settings.threshold_schedule != "constant":
    fields.append("threshold_end")
  low, high = rule.low, vocab_size if rule.high is None else rule.high
  allowed = f"in [{low}, {high}]" if high < math.inf else f"{low} or above"
  for field in fields:
    value = settings[field]
    where = (
      f"rollout.{field} = {value} with rollout.accept = {settings.accept!r}"
    )
    if not low <= value <= high:
      raise ValueError(f"{where}: must be {allowed}")
    if rule.whole_numbers and value != int(value):
      raise ValueError(f"{where}: must be a whole number")


def check_top_k(config: ml_collections.ConfigDict, vocab_size: int) -> None:
  """Checks how many tokens of the teacher are cached; 0 is none.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  top_k = config.teacher_cache.top_k
  if top_k > vocab_size:
    raise ValueError(
      f"teacher_cache.top_k = {top_k}: must be in [0, {vocab_size}], the size "
      "of the vocabulary"
    )


def check_combination(config: ml_collections.ConfigDict) -> None:
  """Checks that the loss can learn from what is generated.

  Raises:
    ValueError: names the fields, their values and what is allowed.
  """
  for found, message in (
    *_about_generation(config),
    *_about_weights(config),
    *_about_packing(config),
    *_about_cache(config),
  ):
    if found:
      raise ValueError(message)


def _about_generation(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  rollout = config.rollout
  mode, schedule = rollout.mode, rollout.threshold_schedule
  share = rollout.reference_share, rollout.reference_share_schedule
  yield (
    mode != "skd" and schedule != "constant",
    f"rollout.threshold_schedule = {schedule!r} with rollout.mode = {mode!r}, "
    "which has no threshold: must be 'constant', or choose the mode 'skd'",
  )
  yield (
    mode == "reference" and share != (0, "constant"),
    f"rollout.reference_share = {share[0]}, {share[1]}, with rollout.mode = "
    "'reference': must be 0, constant, as every row is a reference already",
  )
  budget = [
    f"rollout.{field} = {rollout[field]}"
    for field, none in _NO_BUDGET.items()
    if rollout[field] != none
  ]
  yield (
    mode != "skd" and bool(budget),
    f"{', '.join(budget)} with rollout.mode = {mode!r}, in which no token is "
    "rejected: must be unset, or choose the mode 'skd'",
  )
  yield (
    mode == "on_policy" and config.loss.objective == "cross_entropy",
    "loss.objective = 'cross_entropy' with rollout.mode = 'on_policy', the "
    "student's own tokens: must be 'divergence', or choose the mode "
    "'reference' (SFT) or 'teacher' (SeqKD)",
  )
  devices = config.mesh.rollout_devices
  yield (
    devices != 0 and rollout.max_staleness == 0,
    f"mesh.rollout_devices = {devices} with rollout.max_staleness = 0, where "
    "one waits for the other: must be 0, or choose rollout.max_staleness = 1",
  )
  lag = f"rollout.max_staleness = {rollout.max_staleness} with"
  yield (
    rollout.max_staleness > 0 and mode not in ("skd", "on_policy"),
    f"{lag} rollout.mode = {mode!r}, in which the student generates nothing: "
    "must be 0, or choose the mode 'skd' or 'on_policy'",
  )
  yield (
    rollout.max_staleness > 0
    and min(builders.reference_share(config).extremes) >= 1,
    f"{lag} rollout.reference_share = {share[0]}, {share[1]}, which leaves "
    "nothing to generate: must be 0",
  )


def _about_weights(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  rollout, weights = config.rollout, config.loss.weights
  share = builders.reference_share(config)
  yield (
    config.loss.objective == "cross_entropy" and weights != "uniform",
    f"loss.weights = {weights!r} with loss.objective = 'cross_entropy': must "
    "be 'uniform', or choose the objective 'divergence'",
  )
  yield (
    weights == "accepted_only" and rollout.mode != "skd",
    f"loss.weights = {weights!r} with rollout.mode = {rollout.mode!r}, "
    "which accepts nothing: must be 'uniform', 'verified' or "
    "'teacher_confidence', or choose the mode 'skd'",
  )
  yield (
    weights == "accepted_only" and max(share.extremes) > 0,
    "loss.weights = 'accepted_only' with rollout.reference_share = "
    f"{max(share.extremes)}: must be 'uniform', or set reference_share to 0, "
    "as references would weigh nothing",
  )
  yield (
    weights == "accepted_only" and rollout.accept == "never",
    "loss.weights = 'accepted_only' with rollout.accept = 'never': must be "
    "'uniform', or choose another rollout.accept",
  )
  corrections = config.loss.corrections
  yield (
    bool(corrections) and config.loss.objective == "cross_entropy",
    f"loss.corrections = {corrections!r} with loss.objective = "
    "'cross_entropy': must be empty, or choose the objective 'divergence'",
  )
  yield (
    bool(corrections) and (rollout.mode != "skd" or rollout.accept == "always"),
    f"loss.corrections = {corrections!r} with rollout.mode = "
    f"{rollout.mode!r} and rollout.accept = {rollout.accept!r}, which correct "
    "nothing: must be empty, or choose the mode 'skd' and another accept",
  )


def _about_packing(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  name, longest = max(
    (
      (name, section.max_prompt_length + section.max_new_tokens)
      for name, section in config_lib.task_sections(config).items()
    ),
    key=lambda entry: entry[1],
  )
  for stage in ("teacher.fit", "student.fit", "distill"):
    size = config_lib.get(config, stage).packed_length
    yield (
      size != 0 and size < longest,
      f"{stage}.packed_length = {size}: must be 0, or at least "
      f"{name}.max_prompt_length + {name}.max_new_tokens = {longest}",
    )
  size, rollout = config.distill.packed_length, config.rollout
  yield (
    size != 0 and rollout.mode != "reference",
    f"distill.packed_length = {size} with rollout.mode = {rollout.mode!r}, "
    "whose responses are not known in advance: must be 0, or choose the mode "
    "'reference'",
  )
  first = rollout.first_tokens, rollout.first_tokens_end
  yield (
    size != 0 and any(first),
    f"distill.packed_length = {size} with rollout.first_tokens = {first[0]} "
    f"and first_tokens_end = {first[1]}: must be 0, or set both to 0",
  )


def _about_cache(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  settings, rollout, loss = config.teacher_cache, config.rollout, config.loss
  mode, number = rollout.mode, settings.num_responses
  yield (
    mode != "teacher" and number != 1,
    f"teacher_cache.num_responses = {number} with rollout.mode = {mode!r}: "
    "must be 1, or choose the mode 'teacher', whose responses are drawn",
  )
  yield from _about_task_teachers(config)
  if not settings.top_k:
    return
  where = f"teacher_cache.top_k = {settings.top_k} with"
  yield (
    mode not in ("reference", "teacher"),
    f"{where} rollout.mode = {mode!r}, in which the student takes part: must "
    "be 0, or choose the mode 'reference' or 'teacher'",
  )
  yield (
    loss.objective == "cross_entropy",
    f"{where} loss.objective = 'cross_entropy', which reads no distribution: "
    "must be 0, or choose the objective 'divergence'",
  )
  yield (
    loss.divergence not in cached.DIVERGENCES,
    f"{where} loss.divergence = {loss.divergence!r}: must be 0, or the "
    f"divergence one of {list(cached.DIVERGENCES)}, whose error vanishes with "
    "what is not cached",
  )
  size = config.distill.packed_length
  yield (
    size != 0,
    f"{where} distill.packed_length = {size}, whose rows hold several "
    "responses: one of them must be 0",
  )
  yield (
    loss.weights != "uniform",
    f"{where} loss.weights = {loss.weights!r}: must be 0, or the weights "
    "'uniform'",
  )
  for field in ("reference_share", "first_tokens"):
    value, shape = rollout[field], rollout[f"{field}_schedule"]
    yield (
      (value, shape) != (0, "constant"),
      f"{where} rollout.{field} = {value}, {shape}: must be 0, or {field} 0, "
      "constant",
    )


def _about_task_teachers(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  teachers = config.teacher_cache.teachers.to_dict()
  if not teachers:
    return
  where = f"teacher_cache.teachers = {teachers}"
  yield (
    not config.teacher_cache.top_k,
    f"{where} with teacher_cache.top_k = 0: must be empty, or top_k above 0, "
    "as one teacher at a time is on the devices",
  )
  tasks = list(config.tasks)
  yield (
    not set(teachers) < set(tasks),
    f"{where}: must have some of config.tasks = {tasks}, and leave one of them "
    "to `teacher`",
  )
  yield (
    not all(teachers.values()),
    f"{where}: must name the folder of each",
  )
  yield (
    bool(config.baselines),
    f"{where} with baselines = {tuple(config.baselines)}: one of them must be "
    "empty",
  )
