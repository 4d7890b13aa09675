"""Stages: taken when they are finished, refused when they are stale."""

import functools
import json
import math

import pytest

from skd_jax import config as config_lib
from skd_jax import stages
from tests import damage

_KEY = {"data.kind": "embedded", "distill.num_steps": 10}
_RESULT = {"seconds": {"train": 2.5}}


def take(workdir, key=_KEY, name="teacher"):
  """Returns the result of a stage that must be there already."""

  def refuse():
    raise AssertionError("the stage is run")

  return stages.cached(workdir, name, dict(key), refuse)


class _Killed(Exception):
  pass


def kill():
  raise _Killed


def leave_unfinished(workdir, *, with_checkpoint):
  """Leaves what a run that was killed in a stage leaves."""
  with pytest.raises(_Killed):
    stages.cached(workdir, "teacher", _KEY, kill)
  if with_checkpoint:
    (workdir / "checkpoints" / "teacher" / "100").mkdir(parents=True)


def test_a_tokenizer_stays_when_only_what_it_does_not_read_is_changed(tmp_path):
  def key_of(**changes):
    config = config_lib.default_config()
    config.data.update(changes)
    return stages.cache_keys(config)["tokenizer"]

  before = key_of()
  stages.cached(tmp_path, "tokenizer", before, lambda: _RESULT)
  now = key_of(max_prompt_length=7, max_new_tokens=9, long_prompts="leave_out")
  assert now != before
  assert take(tmp_path, now, "tokenizer") == _RESULT
  with pytest.raises(ValueError, match=r"data\.prompt was"):
    take(tmp_path, key_of(prompt="{source}!"), "tokenizer")


def test_new_stage_is_run(tmp_path):
  assert stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT) == _RESULT


def test_stage_has_its_record_before_it_is_run(tmp_path):
  def run():
    record = json.loads((tmp_path / "stages" / "teacher.json").read_text())
    assert len(record.pop("sha256")) == 64
    assert record == {
      "format": stages.FORMAT,
      "cache_key": _KEY,
      "result": None,
    }
    return _RESULT

  stages.cached(tmp_path, "teacher", _KEY, run)


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_unfinished_stage_is_run_again(tmp_path, with_checkpoint):
  leave_unfinished(tmp_path, with_checkpoint=with_checkpoint)
  assert stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT) == _RESULT


def test_finished_stage_is_reused(tmp_path):
  stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT)
  assert take(tmp_path) == _RESULT
  with pytest.raises(AssertionError, match="the stage is run"):
    take(tmp_path, name="student_init")


def refused(workdir, key):
  with pytest.raises(ValueError) as caught:
    stages.check_fresh(workdir, {"teacher": key})
  with pytest.raises(ValueError) as again:
    stages.cached(workdir, "teacher", key, kill)
  assert str(again.value) == str(caught.value)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_setting_that_came_later_makes_nothing_stale_until_it_is_used():
  config = config_lib.default_config()
  config.tasks = {"talk": {"kind": "messages"}}
  for keys in (
    stages.cache_keys(config)["teacher"],
    stages.settings(config, "data"),
  ):
    names = {field.rpartition(".")[2] for field in keys}
    assert "prompt" in names
    assert not names & {"turns", "long_prompts"}
  config.tasks.talk.turns = config.data.turns = "all"
  assert stages.cache_keys(config)["teacher"]["tasks.talk.turns"] == "all"
  assert stages.settings(config, "data")["data.turns"] == "all"


def test_lag_is_in_the_keys_of_the_distillation_where_there_is_any():
  config = config_lib.default_config()
  before = stages.cache_keys(config)
  assert "rollout.max_staleness" not in before["distill_seed_0"]
  config.rollout.max_staleness = 1
  now = stages.cache_keys(config)
  assert now["distill_seed_0"]["rollout.max_staleness"] == 1
  assert now["student_init"] == before["student_init"]


@pytest.mark.parametrize("is_finished", [True, False])
def test_changed_setting_is_stale(tmp_path, is_finished):
  if is_finished:
    stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT)
  else:
    leave_unfinished(tmp_path, with_checkpoint=True)
  message = refused(tmp_path, _KEY | {"distill.num_steps": 20})
  assert "stage 'teacher'" in message
  assert "distill.num_steps was 10 and is 20" in message
  assert "data.kind" not in message
  assert "--workdir" in message
  # The record is as it was: undoing the change is a way out.
  stages.check_fresh(tmp_path, {"teacher": _KEY})
  if is_finished:
    assert take(tmp_path) == _RESULT


def test_stage_that_has_made_nothing_pins_nothing(tmp_path):
  leave_unfinished(tmp_path, with_checkpoint=False)
  changed = _KEY | {"distill.num_steps": 20}
  stages.check_fresh(tmp_path, {"teacher": changed})
  stages.cached(tmp_path, "teacher", changed, lambda: _RESULT)
  assert take(tmp_path, changed) == _RESULT
  assert "num_steps was 20 and is 10" in refused(tmp_path, _KEY)


def test_added_and_removed_settings_are_stale(tmp_path):
  stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT)
  assert "seed was None and is 1" in refused(tmp_path, _KEY | {"seed": 1})
  message = refused(tmp_path, {"distill.num_steps": 10})
  assert "data.kind was 'embedded' and is None" in message


def test_stage_that_only_informs_is_made_again(tmp_path):
  changed = _KEY | {"distill.num_steps": 20}
  for key, verdict in ((_KEY, "too weak"), (changed, "fits")):
    stages.check_fresh(tmp_path, {"probe": key})
    found = stages.cached(
      tmp_path, "probe", key, functools.partial(dict, verdict=verdict)
    )
    assert found == {"verdict": verdict}
    assert take(tmp_path, key, "probe") == found


def test_many_changes_are_counted(tmp_path):
  key = {f"field_{n}": 0 for n in range(8)}
  stages.cached(tmp_path, "teacher", key, lambda: _RESULT)
  message = refused(tmp_path, dict.fromkeys(key, 1))
  assert "field_4 was 0 and is 1; and 3 more" in message
  assert "field_5" not in message


@pytest.mark.parametrize(
  "record",
  [
    {"needs": {"rollout.policy": "skd"}, "result": {}},
    {"needs": {"rollout.policy": "skd"}, "result": None},
    {"format": stages.FORMAT + 1, "cache_key": _KEY, "result": {}},
  ],
)
def test_workdir_of_another_version_is_one_clear_line(tmp_path, record):
  path = tmp_path / "stages" / "teacher.json"
  path.parent.mkdir()
  path.write_text(json.dumps(record))
  message = refused(tmp_path, _KEY)
  assert message.startswith(f"workdir = {tmp_path}: was written by another")
  assert "--workdir" in message
  assert json.loads(path.read_text()) == record


@pytest.fixture
def record(tmp_path):
  """The path of the record of a finished stage."""
  stages.cached(tmp_path, "teacher", _KEY, lambda: {3: (2.5, math.nan)})
  return tmp_path / "stages" / "teacher.json"


_READ_BACK = {"3": [2.5, None]}


@pytest.mark.parametrize("kind", ["truncated", "emptied", "flipped"])
def test_damaged_record_is_one_clear_line(tmp_path, record, kind):
  assert take(tmp_path) == _READ_BACK
  damage.KINDS[kind](record)
  message = refused(tmp_path, _KEY)
  assert message.startswith(f"{record}: is damaged. Put the file back, or dele")
  record.unlink()  # The way out that the line names.
  assert stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT) == _RESULT


def test_flipped_bits_of_a_record_are_noticed(tmp_path, record):
  whole = record.read_bytes()
  for place in range(len(whole)):
    data = bytearray(whole)
    data[place] ^= 1 << place % 8
    record.write_bytes(data)
    assert refused(tmp_path, _KEY).startswith(f"{record}: is damaged")


@pytest.mark.parametrize("text", ["\xff", "[]", "3", "null"])
def test_record_that_is_none_is_damaged(tmp_path, record, text):
  record.write_text(text, encoding="latin-1")
  assert refused(tmp_path, _KEY).startswith(f"{record}: is damaged")


def test_record_without_checksum_is_used_and_said(tmp_path, caplog):
  path = tmp_path / "stages" / "teacher.json"
  path.parent.mkdir()
  record = {"format": stages.FORMAT, "cache_key": _KEY, "result": _RESULT}
  path.write_text(json.dumps(record))
  assert take(tmp_path) == _RESULT
  assert f"{path}: has no checksum: it is used unver" in caplog.text


def test_checkpoint_whose_record_is_gone_is_continued_and_said(
  tmp_path, caplog
):
  leave_unfinished(tmp_path, with_checkpoint=True)
  assert not caplog.text
  (tmp_path / "stages" / "teacher.json").unlink()
  assert stages.cached(tmp_path, "teacher", _KEY, lambda: _RESULT) == _RESULT
  assert "teacher.json: is missing; " in caplog.text


def test_cadence_settings_do_not_make_a_stage_stale():
  config = config_lib.default_config()
  before = stages.cache_keys(config)
  for fit in (config.teacher.fit, config.student.fit, config.distill):
    fit.log_every_steps += 1
    fit.checkpoint_every_steps += 1
    fit.evaluate_every_steps += 1
    fit.keep_last += 1
    fit.keep_best += 1
    fit.best_metric = "chrf"
  config.teacher.remat = True
  assert stages.cache_keys(config) == before
  config.teacher.fit.num_steps += 1
  changed = {
    name
    for name, key in stages.cache_keys(config).items()
    if key != before[name]
  }
  assert changed == before.keys() - {
    "tokenizer",
    "student_init",
  }


def test_best_checkpoint_depends_on_what_it_is_chosen_by():
  config = config_lib.default_config()
  last = stages.cache_keys(config)["distill_seed_0"]
  config.distill.result = "best"
  config.distill.best_metric = "bleu"
  best = stages.cache_keys(config)["distill_seed_0"]
  assert best.keys() - last.keys() >= {"distill.result", "distill.best_metric"}
  for section, field in (
    ("distill", "evaluate_every_steps"),
    ("data", "max_validation_examples"),
  ):
    before = stages.cache_keys(config)
    config[section][field] += 1
    now = stages.cache_keys(config)
    assert now["distill_seed_0"] != before["distill_seed_0"]
    assert now["teacher"] == before["teacher"]
  assert last.items() <= best.items()


def test_settings_that_only_watch_a_run_are_of_no_result():
  config = config_lib.default_config()
  before = stages.settings(config, *config)
  config.must_save_by = "2099-12-31"
  config.max_step_minutes = 5.0
  config.profile = 3
  config.log.wandb = "project"
  assert stages.settings(config, *config) == before


def test_adapters_are_in_the_keys_of_the_student_where_there_are_any():
  config = config_lib.default_config()
  before = stages.cache_keys(config)
  assert not [name for name in before["distill_seed_0"] if "lora" in name]
  config.student.lora.alpha = 32.0  # Without adapters it says nothing.
  assert stages.cache_keys(config) == before
  config.student.lora.rank = 4
  key = stages.cache_keys(config)["distill_seed_0"]
  assert (
    key.items()
    >= {
      "student.lora.rank": 4,
      "student.lora.alpha": 32.0,
    }.items()
  )
  assert key["student.lora.targets"] == list(config.student.lora.targets)
  assert stages.cache_keys(config)["teacher"] == before["teacher"]


def test_cached_teacher_is_in_the_keys_where_there_is_one():
  config = config_lib.default_config()
  config.rollout.mode = "reference"
  before = stages.cache_keys(config)
  config.teacher_cache.num_responses = 2  # Of no cache.
  assert stages.cache_keys(config) == before
  config.teacher_cache.top_k = 50

  def changed(field, value):
    def change(config):
      *sections, name = field.split(".")
      for section in sections:
        config = config[section]
      config[name] = value

    found = changed_stages(config.copy_and_resolve_references(), change)
    return "teacher_cache" in found, "distill_seed_0" in found

  assert changed("teacher_cache.top_k", 20) == (True, True)
  assert changed("teacher.hidden_size", 64) == (True, True)
  assert changed("tokenizer.vocab_size", 500) == (True, True)
  assert changed("data.prompt", "{source}:") == (True, True)
  assert changed("data.max_new_tokens", 9) == (True, True)
  assert changed("distill.max_examples", 9) == (True, True)
  assert changed("distill.learning_rate", 0.1) == (False, True)
  assert changed("student.hidden_size", 64) == (False, True)
  assert changed("teacher_cache.verify_records", 0) == (False, False)
  # Nothing is drawn in the mode `reference`.
  assert changed("rollout.teacher_temperature", 0.5) == (False, True)
  config.rollout.mode = "teacher"
  assert changed("rollout.teacher_temperature", 0.5) == (True, True)
  assert changed("rollout.teacher_top_p", 0.9) == (True, True)


def test_compact_teacher_is_trained_in_full():
  config = config_lib.default_config()
  config.student.layers_of_teacher = (0,)
  before = stages.cache_keys(config)
  assert "quantization" not in " ".join(before["distill_seed_0"])
  config.teacher.quantization = "int8"
  after = stages.cache_keys(config)
  changed = {name for name in before if after[name] != before[name]}
  assert {"distill_seed_0", "evaluate_teacher", "probe"} <= changed
  assert not changed & {"tokenizer", "teacher", "student_init"}


def changed_stages(config, change):
  before = stages.cache_keys(config)
  change(config)
  after = stages.cache_keys(config)
  assert before.keys() == after.keys()
  return {name for name, key in after.items() if key != before[name]}


def test_stage_depends_on_what_comes_before_it():
  config = config_lib.default_config()
  config.seeds = (0, 1)
  distill = {"draft_length", "probe", "distill_seed_0", "distill_seed_1"}
  scores = {"evaluate_distill_seed_0", "evaluate_distill_seed_1"}

  def change(field, value):
    *sections, name = field.split(".")

    def apply(config):
      for section in sections:
        config = config[section]
      config[name] = value

    return changed_stages(config, apply)

  assert change("rollout.threshold", 5.0) == distill | scores
  assert change("loss.objective", "cross_entropy") == distill | scores
  assert change("student.num_layers", 1) == (
    {"student_init", "evaluate_student_init"} | distill | scores
  )
  assert change("data.metrics", ("bleu",)) == (
    {"evaluate_teacher", "evaluate_student_init"} | scores
  )
  assert change("data.max_validation_examples", 5) == set()
  assert change("task", "another title") == set()
  assert change("data.max_new_tokens", 9) == stages.cache_keys(config).keys()


def test_settings_are_flat_and_as_json_reads_them_back():
  config = config_lib.default_config()
  config.data.stop_strings = ("Q:",)
  flat = stages.settings(config, "data", "teacher.fit", "seed")
  assert flat["data.stop_strings"] == ["Q:"]
  assert flat["teacher.fit.num_steps"] == 1000
  assert flat["seed"] == 0
  assert not [
    name for name in flat if not name.startswith(("data", "teac", "s"))
  ]
  assert json.loads(json.dumps(flat)) == flat
