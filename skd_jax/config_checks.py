"""Every check of a config, before anything is loaded or written.

Each is a ValueError of one line: the field, its value, and what is allowed. The
library functions below know no field names; where they check an argument, its
field is put in front here.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

import ml_collections

from skd_jax import builders, stages
from skd_jax import config as config_lib
from skd_jax.decoding import acceptance, sampling
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.training import generation, profiling, schedules

_MAX_SEED = 2**31 - 2  # A model's seed is at most one more; keys take int32.
_UNKNOWN = 2**31 - 1  # No bound.
_TASK_KINDS = ("embedded", "arithmetic", "parallel", "jsonl", "tfds")


def check_config(config: ml_collections.ConfigDict) -> None:
  """Checks what can be checked from the config alone.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  _one_of(config, "dtype", ("auto", "float32", "bfloat16"))
  _one_of(config, "rollout.mode", generation.MODES)
  _one_of(config, "loss.objective", ("divergence", "cross_entropy"))
  for field in (
    "data.length_multiple",
    "tokenizer.vocab_size",
    "loss.chunk_size",
    "evaluate.batch_size",
  ):
    _at_least(config, field, 1)
  if not 0 <= config.rollout.batch_size <= config.distill.batch_size:
    raise ValueError(
      f"rollout.batch_size = {config.rollout.batch_size}: must be in [0, "
      f"distill.batch_size = {config.distill.batch_size}]"
    )
  _check_tasks(config)
  _check_seeds(config)
  _at_least(config, "profile", 0)
  if config.profile > max(config.distill.num_steps - profiling.SKIPPED, 0):
    raise ValueError(
      f"profile = {config.profile}: must be in [0, distill.num_steps - "
      f"{profiling.SKIPPED} = {config.distill.num_steps - profiling.SKIPPED}]"
    )
  for role in ("teacher", "student"):
    _check_checkpoint(config[role], role)
  for stage in ("teacher.fit", "student.fit", "distill"):
    _check_fit(config, stage)
  _check_rollout(config)
  _at_least(config, "loss.verified_k", 1)
  _in_unit_interval(config, "loss.unverified_weight")
  # The vocabulary of a folder is not known yet.
  has_folder = bool(stages.tokenizer_folder(config))
  check_vocabulary(
    config, _UNKNOWN if has_folder else config.tokenizer.vocab_size
  )
  _check_combination(config)


def check_vocabulary(
  config: ml_collections.ConfigDict, vocab_size: int
) -> None:
  """Checks what is bounded by the vocabulary of the models.

  Args:
    config: the config.
    vocab_size: V, the tokens that both models know.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  _check_threshold(config, vocab_size)
  with _field("loss."):
    builders.token_loss(config, vocab_size)


def check_workdir(workdir: str | pathlib.Path) -> pathlib.Path:
  """Checks that a workdir is a path of a file system.

  Returns:
    The path.

  Raises:
    ValueError: it is an address such as gs://BUCKET, which would become a
      local folder "gs:".
  """
  if "://" in str(workdir):
    raise ValueError(
      f"workdir = {str(workdir)!r}: must be a folder; mount the bucket and "
      "give its path (launch/tpu_vm.sh mounts it as bucket/)"
    )
  return pathlib.Path(workdir)


def check_rows(config: ml_collections.ConfigDict, num_shards: int) -> None:
  """Checks that rows can be sharded.

  Args:
    config: the config.
    num_shards: mesh.data * mesh.fsdp.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  parts = {"evaluate.batch_size": 1, "rollout.batch_size": 1}
  for stage in trained_stages(config):
    parts[f"{stage}.batch_size"] = _get(config, f"{stage}.num_microbatches")
  for field, num_microbatches in parts.items():
    multiple = num_shards * num_microbatches
    if _get(config, field) % multiple:
      why = " * num_microbatches" if num_microbatches > 1 else ""
      raise ValueError(
        f"{field} = {_get(config, field)}: must be a multiple of mesh.data * "
        f"mesh.fsdp{why} = {multiple}"
      )


def check_sizes(
  config: ml_collections.ConfigDict, num_examples: Mapping[str, int]
) -> None:
  """Checks that every stage that trains has a batch of examples.

  Args:
    config: the config.
    num_examples: that are kept for training, by stage.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  for stage, num in num_examples.items():
    batch_size = _get(config, f"{stage}.batch_size")
    if batch_size > num:
      raise ValueError(
        f"{stage}.batch_size = {batch_size}: must be at most the {num} "
        f"training examples ({stage}.max_examples, data.max_train_examples and "
        "the limits of the lengths choose them)"
      )


def trained_stages(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the sections of the config that a run trains by."""
  roles = [role for role in ("teacher", "student") if not config[role].path]
  return [*(f"{role}.fit" for role in roles), "distill"]


def _check_seeds(config: ml_collections.ConfigDict) -> None:
  seeds = config.seeds
  if not seeds or len(set(seeds)) != len(seeds):
    raise ValueError(f"seeds = {seeds}: must be distinct, at least one")
  for field, values in (("seeds", seeds), ("seed", (config.seed,))):
    if min(values) < 0 or max(values) > _MAX_SEED:
      raise ValueError(
        f"{field} = {config[field]}: must be not negative, at most {_MAX_SEED}"
      )


def _check_checkpoint(model: ml_collections.ConfigDict, role: str) -> None:
  """Refuses random weights where the config names a checkpoint, and two."""
  if model.path and model.init_path:
    raise ValueError(
      f"{role}.init_path = {model.init_path!r} with {role}.path = "
      f"{model.path!r}, which is taken as it is: must be empty, or leave "
      f"{role}.path empty to start from {role}.init_path"
    )
  if model.checkpoint and not model.path and not model.init_path:
    raise ValueError(
      f"{role}.checkpoint = {model.checkpoint!r}, but {role}.path and "
      f"{role}.init_path are empty: run `hf download {model.checkpoint} "
      f"--local-dir FOLDER` and give --config.{role}.init_path=FOLDER to start "
      f"from it, or --config.{role}.path=FOLDER to take it as it is"
    )


def _check_rollout(config: ml_collections.ConfigDict) -> None:
  for field in ("threshold", "reference_share"):
    _one_of(config, f"rollout.{field}_schedule", schedules.SHAPES)
  for field in ("reference_share", "reference_share_end", "switch_at"):
    _in_unit_interval(config, f"rollout.{field}")
  for who in ("student", "teacher"):
    with _field(f"rollout.{who}_"):
      sampling.Sampling(
        config.rollout[f"{who}_temperature"], config.rollout[f"{who}_top_p"]
      )
  accept, replace = config.rollout.accept, config.rollout.replace
  with _field("rollout."):
    acceptance.Rule(accept, replace)
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


def _check_threshold(
  config: ml_collections.ConfigDict, vocab_size: int
) -> None:
  settings = config.rollout
  rule = acceptance.RULES[settings.accept]
  if rule.low is None:
    return
  fields = ["threshold"]
  if settings.threshold_schedule != "constant":
    fields.append("threshold_end")
  low, high = rule.low, vocab_size if rule.high is None else rule.high
  for field in fields:
    value = settings[field]
    where = (
      f"rollout.{field} = {value} with rollout.accept = {settings.accept!r}"
    )
    if not low <= value <= high:
      raise ValueError(f"{where}: must be in [{low}, {high}]")
    if rule.whole_numbers and value != int(value):
      raise ValueError(f"{where}: must be a whole number")


def _check_combination(config: ml_collections.ConfigDict) -> None:
  """Checks that the loss can learn from what is generated."""
  for found, message in (*_about_generation(config), *_about_weights(config)):
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
  yield (
    mode == "on_policy" and config.loss.objective == "cross_entropy",
    "loss.objective = 'cross_entropy' with rollout.mode = 'on_policy', the "
    "student's own tokens: must be 'divergence', or choose the mode "
    "'reference' (SFT) or 'teacher' (SeqKD)",
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
    weights in ("accepted_only", "replaced_ce") and rollout.mode != "skd",
    f"loss.weights = {weights!r} with rollout.mode = {rollout.mode!r}, "
    "which accepts and replaces nothing: must be 'uniform', 'verified' or "
    "'teacher_confidence', or choose the mode 'skd'",
  )
  yield (
    weights == "accepted_only" and max(share.extremes) > 0,
    "loss.weights = 'accepted_only' with rollout.reference_share = "
    f"{max(share.extremes)}: must be 'uniform', or set reference_share to 0, "
    "as references would weigh nothing",
  )
  # With these rules one of the two sources never occurs.
  never = {"replaced_ce": "always", "accepted_only": "never"}.get(weights)
  yield (
    never is not None and rollout.accept == never,
    f"loss.weights = {weights!r} with rollout.accept = {never!r}: must be "
    "'uniform', or choose another rollout.accept",
  )


def _check_tasks(config: ml_collections.ConfigDict) -> None:
  sections = config_lib.task_sections(config)
  for name, section in sections.items():
    if section.kind not in _TASK_KINDS:
      raise ValueError(
        f"{name}.kind = {section.kind!r}: must be one of {list(_TASK_KINDS)}"
      )
    for field in ("max_prompt_length", "max_new_tokens"):
      if section[field] < 1:
        raise ValueError(
          f"{name}.{field} = {section[field]}: must be 1 or above"
        )
    if section.weight <= 0:
      raise ValueError(f"{name}.weight = {section.weight}: must be above 0")
    if "{source}" not in section.prompt:
      raise ValueError(
        f"{name}.prompt = {section.prompt!r}: must contain {{source}}"
      )
    with _field(f"{name}."):
      metrics_lib.check_metrics(section.metrics, builders.comet(config))
  if config.mixing_temperature <= 0:
    raise ValueError(
      f"mixing_temperature = {config.mixing_temperature}: must be above 0"
    )
  num_draft_tokens = config.rollout.num_draft_tokens
  name, longest = max(
    ((name, section.max_new_tokens) for name, section in sections.items()),
    key=lambda entry: entry[1],
  )
  if not 0 <= num_draft_tokens <= longest:
    raise ValueError(
      f"rollout.num_draft_tokens = {num_draft_tokens}: must be in [0, "
      f"{name}.max_new_tokens = {longest}]"
    )


def _check_fit(config: ml_collections.ConfigDict, stage: str) -> None:
  for field in ("batch_size", "num_microbatches", "log_every_steps"):
    _at_least(config, f"{stage}.{field}", 1)
  for field in (
    "num_steps",
    "max_examples",
    "warmup_steps",
    "checkpoint_every_steps",
    "evaluate_every_steps",
  ):
    _at_least(config, f"{stage}.{field}", 0)
  _one_of(config, f"{stage}.decay", ("linear", "cosine", "constant"))
  fit = _get(config, stage)
  for field, allowed, valid in (
    ("learning_rate", "above 0", fit.learning_rate > 0),
    ("clip_norm", "above 0", fit.clip_norm > 0),
    ("weight_decay", "0 or above", fit.weight_decay >= 0),
    ("beta1", "in [0, 1)", 0 <= fit.beta1 < 1),
    ("beta2", "in [0, 1)", 0 <= fit.beta2 < 1),
  ):
    if not valid:
      raise ValueError(f"{stage}.{field} = {fit[field]}: must be {allowed}")
  if fit.batch_size % fit.num_microbatches:
    raise ValueError(
      f"{stage}.num_microbatches = {fit.num_microbatches}: must divide "
      f"{stage}.batch_size = {fit.batch_size}"
    )


_get = config_lib.get


@contextlib.contextmanager
def _field(prefix: str) -> Iterator[None]:
  """Puts the section in front of the argument that a function refuses."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{prefix}{error}") from None


def _one_of(config, field: str, allowed: tuple[str, ...]) -> None:
  value = _get(config, field)
  if value not in allowed:
    raise ValueError(f"{field} = {value!r}: must be one of {list(allowed)}")


def _at_least(config, field: str, least: int) -> None:
  value = _get(config, field)
  if value < least:
    raise ValueError(f"{field} = {value}: must be {least} or above")


def _in_unit_interval(config, field: str) -> None:
  value = _get(config, field)
  if not 0 <= value <= 1:
    raise ValueError(f"{field} = {value}: must be in [0, 1]")
