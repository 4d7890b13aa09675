"""Stages of a run, cached in the workdir.

Each stage (teacher, student_init, distill_seed_0, ...) has a record
`stages/NAME.json` with its cache key: the settings that it depends on, those of
the stages before it included. A second start with the same settings takes the
result of a finished stage and continues an unfinished one; with others, it says
which setting makes the stage stale, and stops. Of several processes, the first
reads and writes the records, and all take what it finds.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from absl import logging

from skd_jax import config as config_lib
from skd_jax.parallel import processes
from skd_jax.reporting import files
from skd_jax.training import checkpoint

# Of the records. Before 2 they had no number, and settings other names.
FORMAT = 2

# What a record holds; without a checksum, those of earlier versions.
_FIELDS = {"format", "cache_key", "result"}

# Settings that change what is shown or saved when, or the memory that it takes,
# but not the result; or that only name what a folder holds.
_WITHOUT_EFFECT = (
  "log_every_steps",
  "checkpoint_every_steps",
  "checkpoint_every_minutes",
  "keep_last",
  "keep_best",
  "best_metric",
  "evaluate_every_steps",
  "must_save_by",
  "max_step_minutes",
  "profile",
  "log.wandb",
  "remat",
  ".checkpoint",
  ".verify_records",
)

# Settings that came later, and what was done before: where they say the same,
# what was made without them is as good.
_LATER = {
  "turns": "last",
  "long_prompts": "refuse",
  "max_skipped_steps": 0,
  "packed_length": 0,
  "result": "last",
  "quantization": "",
  "max_staleness": 0,
}

# Sections without a meaning where this setting of theirs is 0.
_SWITCHES = {"student.lora": "rank", "teacher_cache": "top_k"}

# What no result depends on: with other settings it is made again. The verdict
# of the probe must not forbid the change that it asks for, and the draft length
# changes the speed alone.
_INFORMATION = ("probe", "quantization", "draft_length")

# In the key of a tokenizer, but not looked at when it is trained. Whoever is
# told after it that a prompt is too long may change these.
_LIMITS = ("max_prompt_length", "max_new_tokens", "long_prompts")

CacheKey = dict[str, Any]  # Flat: {"data.kind": "embedded", ...}.


def settings(config: ml_collections.ConfigDict, *sections: str) -> CacheKey:
  """Flattens sections of the config: {"data.kind": "embedded", ...}."""
  plain = config_lib.to_plain(config)
  flat: CacheKey = {}

  def add(prefix: str, value: Any) -> None:
    if isinstance(value, dict):
      if prefix in _SWITCHES and not value[_SWITCHES[prefix]]:
        return
      for name, inner in value.items():
        add(f"{prefix}.{name}", inner)
    elif not prefix.endswith(_WITHOUT_EFFECT) and not _is_before(prefix, value):
      flat[prefix] = value

  for section in sections:
    value = plain
    for name in section.split("."):
      value = value[name]
    add(section, value)
  return flat


def _is_before(field: str, value: Any) -> bool:
  name = field.rpartition(".")[2]
  return name in _LATER and _LATER[name] == value


def tokenizer_folder(config: ml_collections.ConfigDict) -> str:
  """Returns the folder that the tokenizer is read from; empty: train one."""
  return (
    config.tokenizer.path
    or config.teacher.path
    or config.teacher.init_path
    or config.student.path
    or config.student.init_path
  )


def cache_keys(config: ml_collections.ConfigDict) -> dict[str, CacheKey]:
  """Returns the cache key of every stage that a config can have."""
  tasks = _tasks_key(config)
  shared = tasks | settings(config, "seed", "dtype")
  teacher = shared | settings(config, "teacher")
  teacher |= _choice_key(config, "teacher.fit")
  # Trained, and cut to layers for a student, are its full weights.
  full = {k: v for k, v in teacher.items() if k != "teacher.quantization"}
  student = shared | settings(config, "student")
  student |= _choice_key(config, "student.fit")
  if config.student.layers_of_teacher:
    student |= full
  distill = teacher | student
  distill |= settings(config, "rollout", "loss", "distill", "teacher_cache")
  distill |= _choice_key(config, "distill")
  scores = _scores_key(config)
  keys = {
    "tokenizer": tasks,
    "teacher": full,
    "student_init": student,
    "draft_length": distill,
    "probe": distill,
    "evaluate_teacher": teacher | scores,
    "evaluate_student_init": teacher | student | scores,
  }
  if config.teacher_cache.top_k:
    keys["teacher_cache"] = teacher | _teacher_cache_key(config)
    for task in config.tasks:  # Where one has a teacher of its own.
      keys[f"teacher_cache_{task}"] = keys["teacher_cache"]
      keys[f"evaluate_teacher_{task}"] = keys["teacher_cache"] | scores
  if config.teacher.quantization:
    keys["quantization"] = distill
  for seed in config.seeds:
    keys[f"distill_seed_{seed}"] = distill
    keys[f"evaluate_distill_seed_{seed}"] = distill | scores
  return keys


def _tasks_key(config: ml_collections.ConfigDict) -> CacheKey:
  """The settings of the tasks; no model depends on how answers are scored."""
  sections = config_lib.task_sections(config)
  key = {
    f"{section}.{field}": value
    for section, data in sections.items()
    for field, value in config_lib.to_plain(data).items()
    if "validation" not in field
    and field not in ("metrics", "weight")
    and not _is_before(field, value)
  }
  if config.tasks:
    key["mixing_temperature"] = config.mixing_temperature
    key |= {
      f"{section}.weight": data.weight for section, data in sections.items()
    }
  key["tokenizer folder"] = tokenizer_folder(config)
  section = "tokenizer"
  if key["tokenizer folder"]:
    section += ".template_arguments"
  return key | settings(config, section)


def _teacher_cache_key(config: ml_collections.ConfigDict) -> CacheKey:
  """What a cached teacher depends on besides the teacher and the tasks."""
  sections = ["teacher_cache", "rollout.mode", "distill.max_examples"]
  if config.rollout.mode == "teacher":
    sections += ["rollout.teacher_temperature", "rollout.teacher_top_p"]
  return settings(config, *sections)


def _choice_key(config: ml_collections.ConfigDict, stage: str) -> CacheKey:
  """What decides the best checkpoint, where the result of a stage is that."""
  fit = config_lib.get(config, stage)
  if fit.result != "best":
    return {}
  key = {
    f"{stage}.{field}": fit[field]
    for field in ("best_metric", "evaluate_every_steps")
  }
  key |= {
    f"{section}.{field}": value
    for section, data in config_lib.task_sections(config).items()
    for field, value in config_lib.to_plain(data).items()
    if "validation" in field
  }
  return key | _scores_key(config)


def _scores_key(config: ml_collections.ConfigDict) -> CacheKey:
  """What a score depends on besides the model."""
  key: CacheKey = {}
  for section, data in config_lib.task_sections(config).items():
    key[f"{section}.metrics"] = list(data.metrics)
    if "comet" in data.metrics:
      key["evaluate.comet_checkpoint"] = config.evaluate.comet_checkpoint
    if "acceptance" in data.metrics:
      for name in ("serving_temperature", "serving_top_p"):
        key[f"evaluate.{name}"] = config.evaluate[name]
  return key


def check_fresh(workdir: pathlib.Path, keys: Mapping[str, CacheKey]) -> None:
  """Checks, before anything is written, that no kept stage is stale.

  A record without a result and without a checkpoint pins nothing: nothing was
  made with its settings.

  Args:
    workdir: the folder of the run.
    keys: of the stages, from cache_keys.

  Raises:
    ValueError: the workdir holds a stage with other settings, of an earlier
      version, or with a damaged record; the message names them and the ways
      out.
  """
  for name, key in keys.items():
    _kept(workdir, name, key)


def changed_settings(
  workdir: pathlib.Path, name: str, key: CacheKey
) -> dict[str, tuple[Any, Any]]:
  """Returns what makes a kept stage stale: field -> (value before, now).

  For the first process.

  Raises:
    ValueError: the record is damaged, or of an earlier version.
  """
  record = _read(workdir, name)
  if record is None or name in _INFORMATION:
    return {}
  return _changes(record["cache_key"], key)


def is_finished(workdir: pathlib.Path, name: str) -> bool:
  """Whether a stage has its result; for the first process."""
  record = _read(workdir, name)
  return record is not None and record["result"] is not None


def rewrite(workdir: pathlib.Path, name: str, key: CacheKey) -> None:
  """Lets a stage under way go on with other settings; for the first process."""
  _write(workdir, name, key, None)


def cached(
  workdir: pathlib.Path,
  name: str,
  key: CacheKey,
  function: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
  """Returns the result of a stage; runs it where there is none yet.

  Args:
    workdir: the folder of the run.
    name: of the stage.
    key: what its result depends on.
    function: runs the stage, or continues it; returns plain JSON.

  Returns:
    The result. Of several processes, that of the first: times differ.

  Raises:
    ValueError: as check_fresh.
  """
  record = _kept(workdir, name, key)
  if record is None or record["result"] is None:
    processes.on_first(_begin, workdir, name, key)
    record = processes.on_first(_write, workdir, name, key, function())
  return record["result"]


def _kept(
  workdir: pathlib.Path, name: str, key: CacheKey
) -> dict[str, Any] | None:
  """Returns the record of a stage, if there is one, and refuses a stale one."""
  record = processes.on_first(_read, workdir, name)
  if record is None or record["cache_key"] == key:
    return record
  if name in _INFORMATION:
    return None
  _check_same(workdir, name, record["cache_key"], key)
  return record


def _path(workdir: pathlib.Path, name: str) -> pathlib.Path:
  return workdir / "stages" / f"{name}.json"


def _read(workdir: pathlib.Path, name: str) -> dict[str, Any] | None:
  path = _path(workdir, name)
  if not path.exists():
    return None
  record = _parse(path)
  if record is None:
    raise ValueError(
      f"{path}: is damaged. Put the file back, or delete it: the same command "
      f"then runs stage {name!r} again, from its checkpoint if it has one"
    )
  if record.get("format") != FORMAT:
    raise ValueError(
      f"workdir = {workdir}: was written by another version of skd_jax, whose "
      "settings have other names; continue it with that version, or choose "
      "another --workdir"
    )
  if record["result"] is None and not checkpoint.exist(workdir, name):
    return None
  return record


def _parse(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads a record; None where it is not what was written."""
  try:
    record = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):
    return None
  if not isinstance(record, dict):
    return None
  checksum = record.pop("sha256", None)
  if checksum is not None:
    return record if checksum == _checksum(record) else None
  if record.get("format") == FORMAT:
    # Of an earlier version, unless the name of the checksum is damaged.
    if set(record) != _FIELDS:
      return None
    logging.warning("%s: has no checksum: it is used unverified", path)
  return record


def _checksum(record: dict[str, Any]) -> str:
  text = json.dumps(record, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _begin(workdir: pathlib.Path, name: str, key: CacheKey) -> None:
  """Writes the record of a stage that has no result yet."""
  path = _path(workdir, name)
  if not path.exists() and checkpoint.exist(workdir, name):
    logging.warning(
      "%s: is missing; %s is continued, whatever settings it was made with",
      path,
      checkpoint.folder(workdir, name),
    )
  _write(workdir, name, key, None)


def _write(
  workdir: pathlib.Path, name: str, key: CacheKey, result: dict | None
) -> dict[str, Any]:
  record = {"format": FORMAT, "cache_key": key, "result": result}
  # Of the record as it is read back: keys are strings, tuples are lists.
  plain = json.loads(json.dumps(files.finite(record)))
  checked = {**plain, "sha256": _checksum(plain)}
  files.write_json(_path(workdir, name), checked)
  return record


def _changes(before: CacheKey, now: CacheKey) -> dict[str, tuple[Any, Any]]:
  return {
    field: (before.get(field), now.get(field))
    for field in sorted(before.keys() | now.keys())
    if before.get(field) != now.get(field)
  }


def _check_same(
  workdir: pathlib.Path, name: str, before: CacheKey, now: CacheKey
) -> None:
  changed = [
    f"{field} was {was!r} and is {value!r}"
    for field, (was, value) in _changes(before, now).items()
    if not (name == "tokenizer" and field.endswith(_LIMITS))
  ]
  if not changed:
    return
  shown = "; ".join(changed[:5])
  if len(changed) > 5:
    shown += f"; and {len(changed) - 5} more"
  raise ValueError(
    f"stage {name!r} in {workdir} is stale: {shown}. Undo the change, choose "
    f"another --workdir, or delete {workdir} to begin again"
  )
