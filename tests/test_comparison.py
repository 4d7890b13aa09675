"""Comparisons of methods: fair, and continued where they were stopped."""

import json

import numpy as np
import pytest

import skd_jax
from skd_jax import (
  comparison_page,
  comparison_runs,
  comparison_tests,
  config_checks,
  grids,
  methods,
  records,
  study,
  train,
)
from skd_jax.reporting import files
from tests import command_lines, tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run, whose teacher and start are compared from."""
  return tiny_run.finish(tmp_path_factory)


def refuse(*_):
  raise AssertionError("a run is repeated")


def test_comparison_is_a_function_that_continues(
  finished, tmp_path, monkeypatch
):
  config = tiny_run.from_finished(
    finished, **{"distill.num_steps": 2, "distill.evaluate_every_steps": 2}
  )
  how = {"methods": ["on_policy_kd"], "seeds": 1, "command": "the command"}
  lines = skd_jax.compare(config, str(tmp_path), **how)
  assert [(line["method"], line["seed"]) for line in lines] == [
    ("teacher", None),
    ("student_init", None),
    ("on_policy_kd", 0),
  ]
  assert lines[-1]["command"] == "the command"
  assert [step for _, step, _ in lines[-1]["curve"]] == [2]
  assert records.read(tmp_path / "methods" / "runs.jsonl") == lines
  # With the references, the answers can be scored again.
  references = records.references(tmp_path, lines[-1])
  assert (
    references
    == (finished.parent / "data" / "test.en").read_text("utf-8").splitlines()
  )
  monkeypatch.setattr(train, "distill", refuse)
  again = skd_jax.compare(config, tmp_path, **how)
  assert again[-1] == lines[-1]
  # The lines are kept where they are asked for.
  assert not (tmp_path / "elsewhere.jsonl").exists()
  with pytest.raises(AssertionError, match="a run is repeated"):
    skd_jax.compare(config, tmp_path, **how, path=tmp_path / "elsewhere.jsonl")
  assert (tmp_path / "elsewhere.jsonl").exists()


def test_run_that_another_process_has_is_left_to_it(tmp_path, monkeypatch):
  asked = comparison_runs.Comparison(
    config=None,
    variants=grids.choose(None, ["skd", "random"]),
    seeds=range(1),
    workdir=tmp_path,
    path=tmp_path / "runs.jsonl",
    command="",
  )
  distilled = []
  monkeypatch.setattr(
    comparison_runs,
    "_run_one",
    lambda asked, before, variant, seed, compiled: distilled.append(variant),
  )

  def try_one(variant):
    return comparison_runs.try_one(asked, None, variant, 0, {})

  skd, control = asked.variants
  folder = records.run_folder(tmp_path, skd.name, 0)
  with files.locked(folder / "lock"):
    assert not try_one(skd)
  # The run that a control is made from is not there yet.
  assert not try_one(control)
  assert not distilled
  assert try_one(skd)
  assert distilled == [skd]


class _Killed(BaseException):
  pass


METHODS = ["on_policy_kd", "skd", "random"]


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory):
  """A comparison that is killed in its third run, and then continued.

  Returns (its workdir, the lines at the kill, (method, seed) distilled after
  it, the lines in the end).
  """
  workdir = tmp_path_factory.mktemp("compare")
  config, how = (
    tiny_run.from_finished(finished),
    {"methods": METHODS, "seeds": 2},
  )
  trim_and_count, distill = train.trim_and_count, train.distill
  steps, distilled = [], []

  def killed(*arguments):
    steps.append(None)
    if len(steps) == 2 * 6 + 4:  # Two runs of 6 steps, and into the third.
      raise _Killed
    return trim_and_count(*arguments)

  def watched(experiment, distillation, seed):
    distilled.append((experiment.workdir.parent.name, seed))
    return distill(experiment, distillation, seed)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "trim_and_count", killed)
    with pytest.raises(_Killed):
      skd_jax.compare(config, workdir, **how)
  before = records.read(workdir / "methods" / "runs.jsonl")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "distill", watched)
    after = skd_jax.compare(config, workdir, **how)
  return workdir, before, distilled, after


@pytest.mark.slow
def test_killed_comparison_loses_at_most_the_run_it_was_in(compared):
  _, before, distilled, after = compared
  runs = [(r["method"], r["seed"]) for r in before]
  assert runs == [
    ("teacher", None),
    ("student_init", None),
    ("on_policy_kd", 0),
    ("skd", 0),
  ]
  assert distilled == [("random", 0), *[(name, 1) for name in METHODS]]
  assert [r for r in after if r in before] == before
  assert len(after) == 2 + 2 * 3


@pytest.mark.slow
def test_line_says_what_a_run_found_and_cost(compared):
  *_, lines = compared
  for line in lines:
    json.dumps(line, allow_nan=False)
    assert line["task"] == "tiny"
    assert {"bleu", "chrf", "kl", "rank_correlation"} <= line["metrics"].keys()
    assert line["versions"]["jax"]
  for line in lines[2:]:
    assert line["seconds"] > 0, line["method"]
    assert line["generated_tokens"] > 0
    assert [step for _, step, _ in line["curve"]] == [3, 6]
    assert line["score"] == "bleu"
    if line["method"] == "on_policy_kd":
      assert line["replacement_rate"] is None
      assert line["replacement_curve"] == []
      assert line["replacement_by_position"] == []
    else:
      assert 0 < line["replacement_rate"] < 1
      assert [step for step, _ in line["replacement_curve"]] == [*range(1, 7)]
      assert line["replacement_by_position"][0][0] == 0


@pytest.mark.slow
def test_control_replaces_at_the_rate_of_what_it_controls(compared):
  workdir, *_, lines = compared
  for seed in (0, 1):
    rate = records.find(lines, "skd", seed)["replacement_rate"]
    run = records.run_folder(workdir, "random", seed)
    settings = json.loads((run / "config.json").read_text())["config"]
    assert settings["rollout"]["threshold"] == pytest.approx(rate)
    found = records.find(lines, "random", seed)["replacement_rate"]
    assert found == pytest.approx(rate, abs=0.1)


@pytest.mark.slow
def test_runs_of_a_seed_see_the_same_examples(compared):
  workdir, *_ = compared
  settings = [
    json.loads((path / "config.json").read_text())["config"]
    for path in sorted((workdir / "runs").glob("*/seed_0"))
  ]
  assert len(settings) == 3
  for section in ("data", "distill", "evaluate", "seeds", "seed"):
    assert all(s[section] == settings[0][section] for s in settings)
  for field in ("student_temperature", "teacher_temperature"):
    assert len({s["rollout"][field] for s in settings}) == 1


@pytest.mark.slow
def test_page_of_a_comparison_has_a_bootstrap_of_its_answers(
  compared, monkeypatch
):
  workdir, *_, lines = compared
  monkeypatch.setattr(comparison_page, "draw", lambda *_: [])  # It takes long.
  path = workdir / "methods" / "runs.jsonl"
  text = comparison_page.write(path, workdir, ["on_policy_kd", "skd"])
  for name in ("teacher", "student_init", *METHODS):
    assert f"| {name} " in text
  assert text in (path.parent / "comparison.md").read_text("utf-8")
  tests = comparison_tests.read(path)
  assert {b: set(arms) for b, arms in tests.items()} == {
    "on_policy_kd": {"skd", "random"},
    "skd": {"on_policy_kd", "random"},
  }
  scores = [
    [records.find(lines, name, seed)["metrics"]["bleu"] for seed in (0, 1)]
    for name in ("skd", "on_policy_kd")
  ]
  tested = tests["on_policy_kd"]["skd"]
  expected = np.mean(scores[0]) - np.mean(scores[1])
  for kind in ("test", "bootstrap"):
    assert tested[kind]["difference"] == pytest.approx(expected)


@pytest.mark.slow
def test_other_settings_do_not_mix_with_kept_lines(compared, finished):
  workdir, *_ = compared
  path = workdir / "methods" / "runs.jsonl"
  before = path.read_bytes()
  other = tiny_run.from_finished(finished, **{"distill.learning_rate": 1e-5})
  with pytest.raises(ValueError, match="other settings"):
    skd_jax.compare(other, workdir, methods=METHODS, seeds=2)
  assert path.read_bytes() == before


def _study(changes):
  return study.Study(
    name="asked",
    question="?",
    regimes={"": {}},
    arms={"skd": study.Arm("skd", changes)},
    baselines=("skd",),
    seeds=1,
    metric="bleu",
    stopping="1 seed",
  )


@pytest.mark.parametrize(
  ("changes", "how", "said"),
  [
    ({}, {"grid": "model_size"}, r"student\.path = .* the grid changes"),
    (
      {"tasks": {"sums": {"kind": "arithmetic"}}},
      {"methods": ["skd"]},
      r"tasks = \['sums'\]",
    ),
    (
      {"teacher_cache.top_k": 5},
      {"methods": ["supervised_kd"]},
      r"teacher_cache\.top_k = 5: must be 0 in a comparison",
    ),
    (
      {},
      {"study": _study({"teacher.quantization": "int8"})},
      r"'skd' changes teacher\.quantization: must leave the teacher as it is",
    ),
    ({}, {"methods": ["skdd"]}, "--methods has 'skdd'"),
    # The K of a variant that would be run late.
    (
      {"teacher.path": "", "student.path": "", "tokenizer.vocab_size": 40},
      {"grid": "threshold_k"},
      r"rollout\.threshold = 50\.0 .* must be in \[1, 40\]",
    ),
  ],
)
def test_impossible_comparison_is_refused_before_it_starts(
  tmp_path, changes, how, said
):
  config = tiny_run.from_finished(tmp_path / "finished")
  config.unlock()
  for field, value in changes.items():
    *sections, name = field.split(".")
    section = config
    for part in sections:
      section = section[part]
    section[name] = value
  with pytest.raises(ValueError, match=said) as caught:
    skd_jax.compare(config.lock(), tmp_path / "w", **how)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "w").exists()


def test_address_is_no_workdir(finished, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r"^workdir = 'gs://bucket': must be"):
    skd_jax.compare(
      tiny_run.from_finished(finished), "gs://bucket", methods=["skd"]
    )
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_method_runs(finished, tmp_path):
  config = tiny_run.from_finished(
    finished, **{"distill.num_steps": 4, "distill.evaluate_every_steps": 2}
  )
  lines = skd_jax.compare(config, tmp_path, grid="methods", seeds=1)
  names = {line["method"] for line in lines if line["seed"] is not None}
  assert names == set(methods.METHODS)
  for line in lines:
    assert all(np.isfinite(v) for v in line["metrics"].values())


@pytest.mark.slow
def test_grid_trains_the_starts_that_it_needs(finished, tmp_path):
  changes = {"student.path": "", "student.fit.num_steps": 4}
  config = tiny_run.from_finished(finished, **changes)
  lines = skd_jax.compare(config, tmp_path, grid="start", seeds=1)
  assert len(lines) == 3 + 6  # The teacher, two starts, six runs.
  starts = {path.name for path in (tmp_path / "starts").iterdir()}
  assert starts == {"start", "raw"}


def test_quick_config_is_valid():
  from configs import wmt

  for variant in ("demo", "multi30k_compare"):
    config = methods.quick(wmt.get_config(variant))
    config_checks.check_config(config)


def _main(*arguments, **options):
  return command_lines.run(
    *("-m", "skd_jax.compare", "--config=configs/wmt.py"), *arguments, **options
  )


@pytest.mark.parametrize(
  ("argument", "said"),
  [
    ("--methods=skdd", "--methods has 'skdd': must be of sft"),
    ("--method=skd", "--method=skd: must not be given; --methods names"),
    ("--num_processes=2", "--num_processes=2: must not be given"),
    ("--study=no.py", "--study=no.py: no such file"),
    ("--regimes=few", "--regimes=few: must be of a --study"),
    (
      "--study=configs/studies/few_prompts.py --quick",
      "--quick: must not be given; the study fixes the sizes",
    ),
    (
      "--study=configs/studies/few_prompts.py --regimes=few",
      "--regimes has 'few': must be of 1000 prompts",
    ),
  ],
)
@pytest.mark.slow
def test_bad_command_line_is_one_clear_line(argument, said, tmp_path):
  done = _main(*argument.split(" "), f"--workdir={tmp_path / 'w'}")
  assert done.returncode == 1
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("Error: ")
  assert said in line
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("equals", ["=", " "], ids=["equals", "space"])
def test_study_brings_its_config_and_settings_go_on_top(equals):
  done = command_lines.run(
    "-c",
    "import importlib, sys\n"
    "compare = importlib.import_module('skd_jax.compare')\n"
    "from skd_jax import main\n"
    "compare.parse_flags(sys.argv)\n"
    "config = main._CONFIG.value\n"
    "print(config.distill.max_examples, config.distill.learning_rate)",
    *f"--study{equals}configs/studies/few_prompts.py".split(),
    "--regimes=1000 prompts",
    "--config.distill.learning_rate=0.5",
  )
  assert done.stdout.split() == ["1000", "0.5"], done.stderr


@pytest.mark.slow
def test_quick_comparison_from_the_command_line(tmp_path):
  arguments = [
    "--quick",
    "--methods=on_policy_kd,skd",
    "--seeds=1",
    f"--workdir={tmp_path / 'w'}",
  ]
  done = _main(*arguments, timeout=900)
  assert done.returncode == 0, done.stderr
  lines = records.read(tmp_path / "w" / "methods" / "runs.jsonl")
  assert [(line["method"], line["seed"]) for line in lines] == [
    ("teacher", None),
    ("student_init", None),
    ("on_policy_kd", 0),
    ("skd", 0),
  ]
  assert lines[-1]["command"] == (
    "python -m skd_jax.compare --config=configs/wmt.py --quick "
    "--methods=on_policy_kd,skd --seeds=1 --workdir=w"
  )
  assert [step for _, step, _ in lines[-1]["curve"]] == [4, 8]
  page = (tmp_path / "w" / "methods" / "comparison.md").read_text("utf-8")
  text = done.stdout.strip().removesuffix(
    f"Written to {tmp_path / 'w' / 'methods'}"
  )
  assert "| skd " in text
  assert text.strip() in page
  # The same command again runs nothing.
  again = _main(*arguments, timeout=300)
  assert again.returncode == 0, again.stderr
  assert again.stdout == done.stdout
  assert again.stderr.count("finished before") == 2
