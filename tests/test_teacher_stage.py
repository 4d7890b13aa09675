"""A run with a cached teacher, against the same run with a live one."""

import contextlib
import functools
import json
import logging

import jax
import numpy as np
import pytest

from skd_jax import (
  experiment,
  models,
  preparation,
  scoring,
  teacher_stage,
  train,
)
from skd_jax.data import dataset, teacher_records
from skd_jax.distillation import prepare_distillation
from skd_jax.training import teacher_cache
from tests import damage, tiny_run

pytestmark = pytest.mark.slow

_WIDTH = 24  # Of the teacher alone: by it, its weights are told apart.


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A workdir with an untrained teacher and student, to start from."""
  width = {"teacher.hidden_size": _WIDTH}
  opened = tiny_run.open_untrained(tmp_path_factory, **width)
  with jax.set_mesh(opened.mesh):
    for stage in ("teacher", "student_init"):
      preparation.prepare_model(opened, stage)
  return opened.workdir


@pytest.fixture(scope="module")
def vocab_size(start):
  return json.loads((start / "teacher" / "config.json").read_text())[
    "vocab_size"
  ]


def make_config(start, **changes):
  usual = {
    "seeds": (0,),
    "rollout.mode": "reference",
    "rollout.teacher_temperature": 0.0,
    "distill.num_steps": 4,
    "distill.learning_rate": 0.05,
    "distill.evaluate_every_steps": 0,
    "data.metrics": ("chrf",),
  }
  return tiny_run.from_finished(start, **usual | changes)


@contextlib.contextmanager
def opened_run(config, workdir):
  """Yields (the run, its teacher)."""
  opened = experiment.open_experiment(config, workdir)
  with jax.set_mesh(opened.mesh):
    yield opened, preparation.prepare_model(opened, "teacher")[0]


def cache_of(opened, teacher):
  folder = opened.config.teacher.path
  return teacher_stage.cache_teacher(opened, teacher, folder)


def save_scaled(opened, start, folder, scale):
  """Writes another teacher: the weights of the start's, times a number."""
  first = models.load_model(start / "teacher", dtype="float32")
  params = jax.tree.map(lambda x: x * scale, first.params)
  preparation.export(
    opened, folder, models.LoadedModel(first.config, first.model, params)
  )


def distill(config, workdir):
  """Returns the weights after the first seed alone."""
  with opened_run(config, workdir) as (opened, teacher):
    cache = cache_of(opened, teacher)
    if cache:
      teacher = teacher_stage.release(teacher)
    begun, _ = preparation.prepare_model(opened, "student_init")
    prepared = prepare_distillation(opened, begun, teacher, cache)
    return jax.device_get(train.distill(opened, prepared, 0)[0].params)


def log_of(workdir):
  lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def largest_difference(one, other):
  found = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, other)
  return max(jax.tree.leaves(found))


@pytest.mark.parametrize("mode", ["reference", "teacher"])
def test_all_tokens_cached_train_as_the_live_teacher(
  start, vocab_size, tmp_path, mode
):
  """The teacher is greedy, so that both see the same responses."""
  live = distill(make_config(start, **{"rollout.mode": mode}), tmp_path / "a")
  changes = {"rollout.mode": mode, "teacher_cache.top_k": vocab_size}
  mine = distill(make_config(start, **changes), tmp_path / "b")
  moved = largest_difference(
    live, models.load_model(start / "student_init", dtype="float32").params
  )
  assert moved > 0.05
  # Adam makes rounding of small gradients visible.
  assert largest_difference(live, mine) < 5e-3 * moved
  for a, b in zip(log_of(tmp_path / "a"), log_of(tmp_path / "b"), strict=True):
    for name in ("loss", "kl", "agreement", "grad_norm", "tokens"):
      assert a[name] == pytest.approx(b[name], rel=2e-3), name


def test_run_drops_the_teacher_and_reports(start, tmp_path, monkeypatch):
  """At every step of the training, no array of the teacher is alive."""
  seen = []
  read = teacher_cache.CachedTeacher.responses
  others = jax.live_arrays()  # Of other tests; held, so that no id is new.
  not_ours = set(map(id, others))

  def responses(self, batch, step):
    shapes = {x.shape for x in jax.live_arrays() if id(x) not in not_ours}
    seen.append([shape for shape in shapes if _WIDTH in shape])
    return read(self, batch, step)

  monkeypatch.setattr(teacher_cache.CachedTeacher, "responses", responses)
  config = make_config(start, **{"teacher_cache.top_k": 20})
  found = train.train_and_evaluate(config, tmp_path)
  assert seen == [[]] * 4
  assert "kl" in found["metrics"]["teacher"]
  assert set(found["metrics"]["student"]) == {"chrf"}
  again = train.train_and_evaluate(config, tmp_path)
  assert again["metrics"] == found["metrics"]
  assert len(seen) == 4


def test_run_that_is_cut_continues_to_the_same_weights(
  start, tmp_path, monkeypatch
):
  """The stage of the cache is cut, and so is the training."""
  monkeypatch.setattr(teacher_stage, "_BATCHES_PER_PART", 2)
  changes = {
    "rollout.mode": "teacher",
    "rollout.teacher_temperature": 1.0,
    "teacher_cache.top_k": 20,
    "teacher_cache.num_responses": 2,
    "distill.num_steps": 9,
  }
  config = make_config(start, **changes)
  whole = distill(config, tmp_path / "whole")

  class Cut(Exception):
    pass

  write, read = teacher_records.write_part, teacher_cache.CachedTeacher.rollout
  count = 0

  def cut_at(number, function):
    def counted(*args):
      nonlocal count
      count += 1
      if count == number:
        raise Cut
      return function(*args)

    return counted

  for number, owner, name, function in (
    (4, teacher_records, "write_part", write),
    (8, teacher_cache.CachedTeacher, "rollout", read),
  ):
    count = 0
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, cut_at(number, function))
      with pytest.raises(Cut):
        distill(config, tmp_path / "cut")
  cut = distill(config, tmp_path / "cut")
  jax.tree.map(np.testing.assert_array_equal, cut, whole)
  for path in (tmp_path / "whole" / "teacher_cache").rglob("*.array_record"):
    name = path.relative_to(tmp_path / "whole")
    assert (tmp_path / "cut" / name).read_bytes() == path.read_bytes()


def test_epochs_take_the_responses_in_turn(start, tmp_path):
  changes = {
    "rollout.mode": "teacher",
    "rollout.teacher_temperature": 1.0,
    "rollout.teacher_top_p": 1.0,
    "teacher_cache.top_k": 5,
    "teacher_cache.num_responses": 2,
  }
  config = make_config(start, **changes)
  with opened_run(config, tmp_path) as (opened, teacher):
    cache = cache_of(opened, teacher)
    batch = next(opened.train_batches(config.distill, 0))
    per_epoch = len(opened.tasks.train) // 8
    assert cache.steps_per_epoch == per_epoch
    first, again, second, third = (
      np.asarray(cache.responses(batch, step)[0].tokens)
      for step in (0, per_epoch - 1, per_epoch, 2 * per_epoch)
    )
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first, third)
  assert (first != second).any()


def test_what_a_cache_is_made_from_is_looked_at(start, tmp_path, caplog):
  """Another teacher in the same folder, other data in the same file."""
  data, teacher_folder = tmp_path / "data", tmp_path / "teacher"
  data.mkdir()
  tiny_run.write_data(data)

  def save_teacher(opened, scale):
    save_scaled(opened, start, teacher_folder, scale)

  config = make_config(
    start, **{"teacher_cache.top_k": 20, "data.dir": str(data)}
  )
  with opened_run(config, tmp_path / "w") as (opened, _):
    save_teacher(opened, 1.0)
  config.teacher.path = str(teacher_folder)
  workdir = tmp_path / "run"
  with (
    opened_run(config, workdir) as (opened, teacher),
    caplog.at_level(logging.INFO),
  ):
    cache_of(opened, teacher)
    assert "8 records are within" in caplog.text
    save_teacher(opened, 1.5)
  with (
    opened_run(config, workdir) as (opened, teacher),
    pytest.raises(ValueError, match=r"was made from other weights\."),
  ):
    cache_of(opened, teacher)
  with opened_run(config, workdir) as (opened, _):
    save_teacher(opened, 1.0)
  lines = (data / "train.en").read_text("utf-8").splitlines()
  (data / "train.en").write_text("\n".join([*lines[1:], lines[0], ""]), "utf-8")
  with (
    opened_run(config, workdir) as (opened, teacher),
    pytest.raises(ValueError, match=r"was made from other examples\."),
  ):
    cache_of(opened, teacher)


def test_records_of_another_teacher_are_found_by_comparing(start, tmp_path):
  config = make_config(
    start, **{"teacher_cache.top_k": 20, "teacher_cache.verify_records": 0}
  )
  with opened_run(config, tmp_path) as (opened, teacher):
    cache = cache_of(opened, teacher)
    batch = next(opened.train_batches(config.distill, 0))
    inputs = {"chunk_size": 64}
    assert teacher_cache.check_records(cache, teacher, batch, **inputs) < 1e-5
    other = models.LoadedModel(
      teacher.config,
      teacher.model,
      jax.tree.map(lambda x: x * 1.5, teacher.params),
    )
    with pytest.raises(ValueError, match=r"differs from the teacher at exam"):
      teacher_cache.check_records(cache, other, batch, **inputs)


def test_flipped_byte_of_the_cache_is_named_and_repaired(start, tmp_path):
  config = make_config(start, **{"teacher_cache.top_k": 20})
  with opened_run(config, tmp_path) as (opened, teacher):
    cache_of(opened, teacher)
    (path,) = tmp_path.rglob("*.array_record")
    whole = path.read_bytes()
    damage.KINDS["flipped"](path)
    with pytest.raises(ValueError, match=f"^{path}: its content"):
      cache_of(opened, teacher)
    (tmp_path / "stages" / "teacher_cache.json").unlink()
    cache_of(opened, teacher)
  assert path.read_bytes() == whole


@pytest.fixture(scope="module")
def two_teachers(start, tmp_path_factory):
  """The config of two tasks, of which `two` has a teacher of its own."""
  other = tmp_path_factory.mktemp("teachers") / "other"
  with opened_run(make_config(start), other.parent / "w") as (opened, _):
    save_scaled(opened, start, other, 1.5)
  config = make_config(
    start,
    **{
      "rollout.mode": "teacher",
      "teacher_cache.top_k": 20,
      "evaluate.num_samples": 0,
    },
  )
  config.tasks = {"one": {}, "two": {"prompt": "Again: {source}"}}
  config.teacher_cache.teachers = {"two": str(other)}
  return config


def test_responses_to_a_task_are_those_of_its_teacher(two_teachers, tmp_path):
  other = two_teachers.teacher_cache.teachers.two
  with opened_run(two_teachers, tmp_path) as (opened, teacher):
    scores = teacher_stage.score_teacher(opened, teacher)
    assert list(scores["metrics"]) == ["one"]
    cache, _ = teacher_stage.add_task_teachers(
      opened, cache_of(opened, teacher), scores
    )
    teachers = (
      teacher,
      preparation.read_model(opened, "teacher", other, is_trained=False),
    )
    train_set = opened.tasks.train
    assert cache.steps_per_epoch == len(train_set) // 8
    for task in (0, 1):
      places = np.flatnonzero(train_set.task_id == task)[:8]
      batch = opened.one_batch(dataset.select(train_set, places))
      check = functools.partial(
        teacher_cache.check_records, cache, batch=batch, chunk_size=64
      )
      assert check(teachers[task]) < 1e-3
      with pytest.raises(ValueError, match="differs from the teacher"):
        check(teachers[1 - task])


def test_run_of_two_teachers_has_one_at_a_time_and_scores_both(
  two_teachers, start, tmp_path, monkeypatch
):
  folders = (start / "teacher", two_teachers.teacher_cache.teachers.two)
  own = {}
  for task, folder in zip(("one", "two"), folders, strict=True):
    alone = two_teachers.copy_and_resolve_references()
    alone.teacher.path, alone.teacher_cache.teachers = str(folder), {}
    with opened_run(alone, tmp_path / task) as (opened, teacher):
      own[task] = scoring.score(opened, "teacher", teacher, teacher)
  alive, others = [], jax.live_arrays()
  not_ours = set(map(id, others))
  write = teacher_records.write_part

  def write_part(*args):
    write(*args)  # Computes the records.
    mine = [x for x in jax.live_arrays() if id(x) not in not_ours]
    # A layer has one of this shape; the width is that of teachers alone.
    alive.append(sum(x.shape == (_WIDTH,) for x in mine))

  monkeypatch.setattr(teacher_records, "write_part", write_part)
  found = train.train_and_evaluate(two_teachers, tmp_path / "run")
  assert len(alive) == 2
  assert alive[0] == alive[1] > 0
  for task, scores in own.items():
    assert found["metrics"]["teacher"][task] == pytest.approx(
      scores["metrics"][task]
    )
    name = f"answers/teacher.{task}.txt"
    assert (tmp_path / "run" / name).read_text() == (
      tmp_path / task / name
    ).read_text()
  assert own["one"]["metrics"]["two"] != own["two"]["metrics"]["two"]
  again = train.train_and_evaluate(two_teachers, tmp_path / "run")
  assert again["metrics"] == found["metrics"]
  assert len(alive) == 2
