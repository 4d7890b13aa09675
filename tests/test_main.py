"""A whole run: what it leaves, how it continues, how it fails."""

import json
import os
import pathlib
import shutil
import signal
import types

import filelock
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors import numpy as safetensors

from skd_jax import main, messages, train
from skd_jax.parallel import compilation
from skd_jax.training import draft_length, loop
from tests import command_lines, tiny_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.fixture
def config(workdir):
  """The config of the finished run, to be changed."""
  return tiny_run.config(workdir.parent / "data")


def _read(path):
  return json.loads(path.read_text("utf-8"))


def _logged(workdir):
  lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def test_run_leaves_all_its_artifacts(workdir):
  for name in (
    "config.json",
    "example.txt",
    "metrics.jsonl",
    "export/config.json",
    "export/model.safetensors",
    "export/tokenizer.json",
    "report.html",
    "samples.html",
    "report.json",
    "report.md",
    "learning_curve.png",
    "replacement_rate.png",
    "answers/teacher.txt",
    "answers/student_init.txt",
    "answers/distill_seed_1.txt",
  ):
    assert (workdir / name).stat().st_size > 0, name
  for stage in ("teacher", "student_init", "distill_seed_1"):
    assert list((workdir / "checkpoints" / stage).iterdir())
  assert list((workdir / "tensorboard").rglob("events.*"))
  assert not list(workdir.rglob("*.tmp"))
  # The rollouts of the start, the middle and the end.
  samples = workdir / "samples" / "seed_0"
  assert {p.stem for p in samples.iterdir()} == {"0", "3", "6"}


@pytest.mark.slow
def test_baseline_can_be_added_to_a_finished_run(workdir, config, tmp_path):
  copy = tmp_path / "run"
  shutil.copytree(workdir, copy)
  config.baselines = ("supervised_kd",)
  report = train.train_and_evaluate(config, copy)
  before = _read(workdir / "report.json")["metrics"]
  assert report["metrics"]["student"] == before["student"]
  assert set(report["metrics"]) == {*before, "supervised_kd"}
  assert report["metrics"]["supervised_kd"] != before["student"]
  assert report["seconds"]["baselines"] > 0
  assert "| student, supervised_kd |" in (copy / "report.md").read_text("utf-8")
  folder = copy / "baselines" / "supervised_kd"
  assert (folder / "answers" / "distill_seed_1.txt").stat().st_size > 0
  # Its stages stand: the same command again has nothing to do.
  again = train.train_and_evaluate(config, copy)
  assert again["metrics"] == report["metrics"]


def test_config_json_tells_how_the_run_was_made(workdir):
  record = _read(workdir / "config.json")
  assert record["config"]["data"]["kind"] == "parallel"
  assert record["config"]["seeds"] == [0, 1]
  assert record["versions"]["jax"] == jax.__version__
  assert record["devices"]
  assert "git" in record


def test_no_file_of_a_run_holds_a_key_of_the_environment(workdir):
  files = [path for path in workdir.rglob("*") if path.is_file()]
  assert len(files) > 100
  secret = tiny_run.SECRET.encode()
  assert not [path for path in files if secret in path.read_bytes()]


def test_report_has_the_scores_of_all_models_and_seeds(workdir):
  report = _read(workdir / "report.json")
  assert report["task"] == "tiny"
  assert report["seeds"] == [0, 1]
  assert [entry["seed"] for entry in report["per_seed"]] == [0, 1]
  for scores in report["metrics"].values():
    assert set(scores) == {
      "bleu",
      "chrf",
      "kl",
      "agreement",
      "rank_correlation",
      "teacher_top_mass",
      "student_top_mass",
      "teacher_entropy",
      "student_entropy",
    }
  assert set(report["metrics"]) == {"teacher", "student_init", "student"}
  assert report["metrics"]["teacher"]["kl"] == pytest.approx(0, abs=1e-6)
  assert report["metrics"]["teacher"]["agreement"] == 1
  mean = np.mean([e["metrics"]["student"]["kl"] for e in report["per_seed"]])
  assert report["metrics"]["student"]["kl"] == pytest.approx(mean)
  assert 0 < report["rollout"]["replacement_rate"] < 1
  assert report["rollout"]["accepted_per_round"] > 0
  assert report["rollout"]["tokens_per_s"] > 0
  assert {"generate", "train", "evaluate", "total"} <= set(report["seconds"])
  assert "tok:13a" in report["signature"]["bleu"]
  assert report["config"] == _read(workdir / "config.json")["config"]


def test_report_says_how_student_and_teacher_fit_at_the_start(workdir):
  report = _read(workdir / "report.json")
  found = report["probe"]
  assert found["rule"] == "top_k 2"
  assert 0 < found["replaced"] < 1
  assert found["rows"] == 16
  assert 0 < found["mean_length"] <= 16
  assert 0 < found["teacher_entropy"] < found["max_entropy"]
  # As on the references, about.
  start = report["metrics"]["student_init"]
  assert found["agreement"] == pytest.approx(start["agreement"], abs=0.2)
  page = (workdir / "report.md").read_text("utf-8")
  assert f"The pair at the start: {found['verdict']}." in page
  assert _read(workdir / "stages" / "probe.json")["result"] == found


def test_distillation_brings_the_student_closer_to_the_teacher(workdir):
  scores = _read(workdir / "report.json")["metrics"]
  assert scores["student"]["kl"] < scores["student_init"]["kl"]


def test_seeds_differ(workdir):
  students = [
    safetensors.load_file(workdir / f"students/seed_{seed}/model.safetensors")
    for seed in (0, 1)
  ]
  assert any(np.any(students[0][k] != students[1][k]) for k in students[0])


def test_every_step_is_logged_once(workdir):
  log = [line for line in _logged(workdir) if "loss" in line]
  for seed in (0, 1):
    steps = [
      x["step"] for x in log if (x["stage"], x["seed"]) == ("distill", seed)
    ]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_every_seed_is_validated_also_where_samples_are_kept(workdir):
  validated = [
    (line["seed"], line["step"])
    for line in _logged(workdir)
    if "validation_bleu" in line
  ]
  assert validated == [(0, 3), (0, 6), (1, 3), (1, 6)]


def test_validation_shows_how_student_and_teacher_agree(workdir):
  shown = [line for line in _logged(workdir) if "validation_bleu" in line]
  for line in shown:
    assert 0 < line["validation_student_top_mass"] <= 1
    assert 0 < line["validation_teacher_top_mass"] <= 1
    assert line["validation_kl"] > 0


def test_checkpoint_holds_student_and_optimizer_and_nothing_of_the_teacher(
  workdir,
):
  student = safetensors.load_file(workdir / "export" / "model.safetensors")
  size = sum(array.size for array in student.values())
  folder = workdir / "checkpoints" / "distill_seed_0"
  saved = ocp.StandardCheckpointHandler().metadata(folder / "6" / "state")
  leaves = jax.tree.leaves(saved.tree)
  held = sum(int(np.prod(leaf.shape)) for leaf in leaves)
  # Weights and both moments of Adam; besides them only the counters of steps.
  assert 3 * size < held < 3 * size + 10


def _main(*arguments):
  return command_lines.run("-m", "skd_jax.main", *arguments)


@pytest.mark.slow
def test_same_command_again_takes_the_finished_stages(workdir, tmp_path):
  before = _read(workdir / "report.json")
  log = (workdir / "metrics.jsonl").read_bytes()
  weights = (workdir / "export" / "model.safetensors").read_bytes()
  data = str(workdir.parent / "data")
  experiment = tmp_path / "tiny.py"
  experiment.write_text(
    "import pathlib\n"
    "from tests import tiny_run\n"
    "def get_config():\n"
    f"  return tiny_run.config(pathlib.Path({data!r}))\n"
  )
  done = _main(f"--config={experiment}", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert (workdir / "report.md").read_text("utf-8") in done.stdout
  after = _read(workdir / "report.json")
  for key in ("metrics", "per_seed", "rollout", "seconds"):
    assert after[key] == before[key]
  assert (workdir / "metrics.jsonl").read_bytes() == log
  assert (workdir / "export" / "model.safetensors").read_bytes() == weights
  assert "skd_jax.main --config=" in after["command"]


@pytest.mark.parametrize(
  ("section", "field", "value"),
  [
    ("distill", "num_steps", 7),
    ("rollout", "threshold", 3.0),
    ("data", "max_new_tokens", 15),
  ],
)
def test_changed_setting_is_stale(workdir, config, section, field, value):
  before = config[section][field]
  config[section][field] = value
  report = (workdir / "report.json").read_bytes()
  with pytest.raises(ValueError) as caught:
    train.train_and_evaluate(config, workdir)
  assert f"{section}.{field} was {before} and is {value}" in str(caught.value)
  assert (workdir / "report.json").read_bytes() == report


def test_interrupted_run_ends_as_an_undisturbed_one(
  workdir, config, tmp_path, monkeypatch
):
  # With the models of the finished run, so their stages are skipped as well.
  config.teacher.path = str(workdir / "teacher")
  config.student.path = str(workdir / "student_init")
  config.seeds = (0,)
  calls = []

  def interrupted(*arguments):
    calls.append(len(calls))
    if len(calls) == 3:
      os.kill(os.getpid(), signal.SIGINT)
    return trim_and_count(*arguments)

  trim_and_count = train.trim_and_count
  with monkeypatch.context() as patch:
    patch.setattr(train, "trim_and_count", interrupted)
    with pytest.raises(loop.Interrupted, match="step 3 of 'distill_seed_0'"):
      train.train_and_evaluate(config, tmp_path)
  assert len(calls) == 3
  assert not (tmp_path / "report.json").exists()
  report = train.train_and_evaluate(config, tmp_path)

  ours = safetensors.load_file(tmp_path / "export" / "model.safetensors")
  whole = safetensors.load_file(workdir / "export" / "model.safetensors")
  assert ours.keys() == whole.keys()
  for name, array in whole.items():
    np.testing.assert_array_equal(ours[name], array)
  (first, _) = _read(workdir / "report.json")["per_seed"]
  assert report["per_seed"][0]["metrics"] == first["metrics"]
  for rate in ("replacement_rate", "accepted_per_round", "truncated"):
    assert report["per_seed"][0]["rollout"][rate] == first["rollout"][rate]
  assert {line["stage"] for line in _logged(tmp_path)} == {"distill"}
  assert not (tmp_path / "teacher").exists()
  for step in (0, 3, 6):
    sample = pathlib.Path("samples") / "seed_0" / f"{step}.json"
    assert _read(tmp_path / sample) == _read(workdir / sample)


@pytest.mark.slow
def test_draft_length_and_queue_change_the_speed_alone(
  workdir, config, tmp_path, monkeypatch
):
  config.teacher.path = str(workdir / "teacher")
  config.student.path = str(workdir / "student_init")
  config.seeds = (0,)
  config.rollout.num_draft_tokens = 0  # Measured.
  config.rollout.batch_size = 3  # Of 8.
  config.profile = 2
  monkeypatch.setattr(draft_length, "DRAFT_LENGTHS", (5,))
  report = train.train_and_evaluate(config, tmp_path)
  chosen = _read(tmp_path / "stages" / "draft_length.json")["result"]
  assert chosen == {"num_draft_tokens": 5}
  (first, _) = _read(workdir / "report.json")["per_seed"]
  for rate in ("replacement_rate", "truncated"):
    assert report["per_seed"][0]["rollout"][rate] == first["rollout"][rate]
  ours = safetensors.load_file(tmp_path / "export" / "model.safetensors")
  whole = safetensors.load_file(workdir / "export" / "model.safetensors")
  for name, array in whole.items():
    np.testing.assert_allclose(ours[name], array, atol=1e-4)
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))

  # A second start takes the length that was chosen.
  monkeypatch.setattr(draft_length, "DRAFT_LENGTHS", ())
  (tmp_path / "report.json").unlink()
  train.train_and_evaluate(config, tmp_path)
  assert (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ((), "--config"),
    (("--config=configs/wmt.py", "--wrkdir=x"), "'wrkdir'"),
    (("--config=configs/wmt.py:nope",), "must be one of ['demo', "),
    (("--config=configs/none.py",), "'configs/none.py'"),
    (("--config=configs/none.py", "--config.seed=1"), "'configs/none.py'"),
    (("--config=configs/wmt.py", "--config.distil.beta1=1"), '"distill"'),
    (
      ("--config=configs/wmt.py", "--config.distill.num_steps=a"),
      "num_steps=a",
    ),
    (("--config=skd_jax/structs.py",), "has no function get_config"),
    (("--config=configs/wmt.py", "more"), "unknown arguments: more"),
  ],
)
def test_bad_command_line_is_one_clear_line(tmp_path, arguments, said):
  done = _main(f"--workdir={tmp_path}", *arguments)
  assert done.returncode == 1
  assert done.stderr.startswith("Error: ")
  assert said in done.stderr
  assert done.stderr.count("\n") == 1
  assert done.stdout == ""
  assert not list(tmp_path.iterdir())


def _failed_main(monkeypatch, capsys, config, workdir, **flags):
  """(exit status, the line on stderr) of main with this config."""
  values = {"_CONFIG": config, "_WORKDIR": str(workdir)}
  values |= dict.fromkeys(
    ("_METHOD", "_COORDINATOR_ADDRESS", "_NUM_PROCESSES", "_PROCESS_ID")
  )
  values["_CONTINUE_WITH_CHANGES"] = False
  values |= flags
  for name, value in values.items():
    monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))
  monkeypatch.setattr(compilation, "keep_compiled", lambda: None)
  with pytest.raises(SystemExit) as stopped:
    main.main(["main"])
  output = capsys.readouterr().err
  assert "Traceback" not in output
  (line,) = output.strip().splitlines()
  return stopped.value.code, line


def test_second_run_in_a_workdir_is_refused(config, tmp_path):
  refused = pytest.raises(ValueError, match=r"workdir = .*: another run is in")
  with filelock.FileLock(tmp_path / "lock"), refused:
    train.train_and_evaluate(config, tmp_path)
  assert not (tmp_path / "checkpoints").exists()


def test_missing_data_folder_is_one_clear_line(
  config, tmp_path, monkeypatch, capsys
):
  config.data.dir = str(tmp_path / "none")
  code, line = _failed_main(monkeypatch, capsys, config, tmp_path / "w")
  assert code == 1
  folder = str(tmp_path / "none")
  assert line == f"Error: data.dir = {folder!r}: no such folder"
  assert not (tmp_path / "w").exists()


def test_unequal_files_are_one_clear_line(
  config, tmp_path, monkeypatch, capsys
):
  tiny_run.write_data(tmp_path)
  with (tmp_path / "train.de").open("a", encoding="utf-8") as file:
    file.write("Noch ein Satz.\n")
  config.data.dir = str(tmp_path)
  code, line = _failed_main(monkeypatch, capsys, config, tmp_path / "w")
  assert code == 1
  assert "train.de has 49 lines" in line
  assert "train.en has 48" in line


def test_bad_setting_is_one_clear_line(config, tmp_path, monkeypatch, capsys):
  config.rollout.num_draft_tokens = -1
  code, line = _failed_main(monkeypatch, capsys, config, tmp_path / "w")
  assert code == 1
  assert line == (
    "Error: rollout.num_draft_tokens = -1: must be in [0, "
    f"data.max_new_tokens = {config.data.max_new_tokens}]"
  )
  assert not (tmp_path / "w").exists()


def test_address_as_workdir_is_one_clear_line(
  config, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  code, line = _failed_main(monkeypatch, capsys, config, "gs://bucket/run")
  assert code == 1
  assert line.startswith("Error: workdir = 'gs://bucket/run': must be a folder")
  assert not list(tmp_path.iterdir())


def test_workdir_of_the_earlier_version_is_one_clear_line(
  config, tmp_path, monkeypatch, capsys
):
  (tmp_path / "stages").mkdir()
  (tmp_path / "stages" / "tokenizer.json").write_text(
    json.dumps({"needs": {"data.kind": "parallel"}, "result": {}})
  )
  code, line = _failed_main(monkeypatch, capsys, config, tmp_path)
  assert code == 1
  assert line.startswith(f"Error: workdir = {tmp_path}: was written by another")


@pytest.mark.slow
def test_bad_setting_is_all_that_is_shown(tmp_path):
  done = _main(
    "--config=configs/wmt.py",
    "--config.data.kind=x",
    f"--workdir={tmp_path / 'w'}",
  )
  assert done.returncode == 1
  # Not "PyTorch was not found" either, which transformers advises.
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("Error: data.kind = 'x': must be one of ['embedded'")
  assert done.stdout == ""
  assert not (tmp_path / "w").exists()


def test_command_names_no_folder_of_this_machine(monkeypatch):
  arguments = [
    "--config=configs/wmt.py:demo",
    "--workdir=/home/me/compare",
    "--json=/tmp/x.jsonl",
    "--methods=on_policy_kd,skd",
    "--config.data.prompt=a b",
  ]
  monkeypatch.setattr("sys.argv", ["/home/me/skd_jax/compare.py", *arguments])
  assert messages.command_line("skd_jax.compare") == (
    "python -m skd_jax.compare --config=configs/wmt.py:demo --workdir=compare "
    "--methods=on_policy_kd,skd '--config.data.prompt=a b'"
  )


def _with_method(*arguments):
  """Returns the rollout and loss of a command line with the demo config."""
  done = command_lines.run(
    "-c",
    "import json, sys\n"
    "from skd_jax import main\n"
    "main.parse_flags(['main', '--config=configs/wmt.py', *sys.argv[1:]])\n"
    "config = main.with_method(main._CONFIG.value)\n"
    "assert config.is_locked\n"
    "print(config.to_json())\n",
    *arguments,
  )
  assert done.returncode == 0, done.stderr
  config = json.loads(done.stdout)
  return config["rollout"], config["loss"]


def test_method_is_applied_and_single_settings_go_on_top():
  plain, _ = _with_method()
  assert plain["mode"] == "skd"
  rollout, loss = _with_method("--method=gkd")
  assert (rollout["mode"], rollout["reference_share"]) == ("on_policy", 0.5)
  assert loss["divergence"] == "jsd"
  rollout, loss = _with_method(
    "--config.rollout.reference_share=0.25",
    "--method=gkd",
    "--config.loss.divergence=tvd",
  )
  assert (rollout["mode"], rollout["reference_share"]) == ("on_policy", 0.25)
  assert loss["divergence"] == "tvd"


def test_control_takes_its_rate_from_the_threshold():
  rollout, _ = _with_method("--method=random", "--config.rollout.threshold=0.2")
  assert (rollout["accept"], rollout["threshold"]) == ("random", 0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "said"),
  [
    ("random", "random (that of skd)"),
    ("skdd", "method = 'skdd': must be one of ['sft', "),
  ],
)
def test_method_that_cannot_be_applied_is_one_clear_line(
  tmp_path, method, said
):
  done = _main(
    "--config=configs/wmt.py",
    f"--method={method}",
    f"--workdir={tmp_path / 'w'}",
  )
  assert done.returncode == 1
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("Error: ")
  assert said in line
  assert not (tmp_path / "w").exists()


def test_one_flag_of_several_processes_is_one_clear_line(
  config, tmp_path, monkeypatch, capsys
):
  code, line = _failed_main(
    monkeypatch, capsys, config, tmp_path / "w", _NUM_PROCESSES=2
  )
  assert code == 1
  assert line.startswith("Error: --coordinator_address is missing")
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("how", ["under a file", "read-only"])
def test_workdir_that_cannot_be_written_is_one_line(
  config, tmp_path, monkeypatch, capsys, how
):
  parent = tmp_path / "parent"
  if how == "under a file":
    parent.write_text("")
  else:
    parent.mkdir(mode=0o555)
    if os.access(parent, os.W_OK):
      pytest.skip("this user, as root, may write to any folder")
  workdir = parent / "w"
  code, line = _failed_main(monkeypatch, capsys, config, workdir)
  assert code == 1
  assert line.startswith("Error: ")
  assert str(workdir) in line


def test_terminated_between_two_steps_is_stopped_as_by_ctrl_c(
  tmp_path, monkeypatch, capsys
):
  config = tiny_run.config(tmp_path)
  before = signal.getsignal(signal.SIGTERM)

  def terminate(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the run goes on")

  monkeypatch.setattr(train, "train_and_evaluate", terminate)
  code, line = _failed_main(monkeypatch, capsys, config, tmp_path)
  assert (code, line) == (130, "Stopped. The same command continues.")
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (loop.Interrupted("Stopped after step 3 of 'distill_seed_0'"), 130),
    (KeyboardInterrupt(), 130),
    (FloatingPointError("distill, step 3: loss is nan"), 1),
    (OSError(28, "No space left on device", "workdir/export"), 1),
  ],
)
def test_stopped_run_says_why_and_exits_with_a_code(
  config, tmp_path, monkeypatch, capsys, error, code
):
  def stop(*_, **__):
    raise error

  monkeypatch.setattr(train, "train_and_evaluate", stop)
  found, line = _failed_main(monkeypatch, capsys, config, tmp_path)
  assert found == code
  assert str(error) in line
  assert ("The same command continues" in line) == (code == 130)
