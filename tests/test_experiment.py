"""An opened run: all is checked before anything is written."""

import json
import shutil

import jax
import pytest
import tokenizers
import transformers

from skd_jax import experiment, methods, pair, stages
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.reporting import manifest
from tests import tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.fixture
def config(finished):
  """The config of the finished run, to be changed."""
  return tiny_run.config(finished.parent / "data")


@pytest.fixture
def data(tmp_path):
  (tmp_path / "data").mkdir()
  tiny_run.write_data(tmp_path / "data")
  return tmp_path / "data"


def contents(folder):
  """Returns every file and folder below a folder, with their bytes."""
  return {
    path.relative_to(folder): path.read_bytes() if path.is_file() else None
    for path in folder.rglob("*")
  }


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("distill.num_steps", 7, "'distill_seed_0' .* is stale"),
    ("teacher.num_layers", 2, "'teacher' .* is stale"),
    ("data.max_new_tokens", 12, "'teacher' .* is stale"),
    ("data.metrics", ("bleu",), "'evaluate_teacher' .* is stale"),
    ("rollout.threshold", 0.0, r"^rollout\.threshold = 0\.0"),
    ("mesh.data", 5, "mesh"),
  ],
)
def test_refused_config_changes_nothing(
  finished, config, monkeypatch, field, value, said
):
  def refuse(*_, **__):
    raise AssertionError("something is written")

  for name in ("write_text", "mkdir"):
    monkeypatch.setattr(f"pathlib.Path.{name}", refuse)
  before = (finished / "config.json").read_bytes()
  with pytest.raises(ValueError, match=said) as caught:
    experiment.open_experiment(methods.change(config, {field: value}), finished)
  assert "\n" not in str(caught.value)
  assert (finished / "config.json").read_bytes() == before


def test_refused_config_makes_no_workdir(config, tmp_path):
  config.data.dir = str(tmp_path / "none")
  with pytest.raises(FileNotFoundError):
    experiment.open_experiment(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_missing_data_folder_names_the_field(config, tmp_path):
  config.data.dir = "/x"
  with pytest.raises(
    FileNotFoundError, match=r"^data\.dir = '/x': no such folder$"
  ):
    experiment.open_experiment(config, tmp_path / "w")
  config.tasks = {
    "words": {"kind": "arithmetic"},
    "sums": {"kind": "jsonl", "source_field": "q", "target_field": "a"},
  }
  with pytest.raises(
    FileNotFoundError, match=r"^tasks\.sums\.dir = '/x': no such folder$"
  ):
    experiment.open_experiment(config, tmp_path / "w")


def test_missing_data_field_is_named(config, tmp_path):
  config.data.dir = ""
  with pytest.raises(ValueError, match=r"^data\.dir = .*: must be given"):
    experiment.open_experiment(config, tmp_path / "w")


def test_file_of_the_data_is_named_with_its_section(config, data, tmp_path):
  (data / "test.en").unlink()
  config.data.dir = str(data)
  with pytest.raises(
    FileNotFoundError, match=r"^data: .*holds neither test\.en"
  ):
    experiment.open_experiment(config, tmp_path / "w")


def test_address_is_refused_by_name(config, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r"^workdir = 'gs://bucket/run': must"):
    experiment.open_experiment(config, "gs://bucket/run")
  assert not list(tmp_path.iterdir())


def test_workdir_of_the_earlier_version_is_refused(config, tmp_path):
  (tmp_path / "stages").mkdir()
  record = {"needs": {"rollout.policy": "skd"}, "result": {"seconds": 1.0}}
  (tmp_path / "stages" / "teacher.json").write_text(json.dumps(record))
  before = contents(tmp_path)
  with pytest.raises(
    ValueError, match=f"^workdir = {tmp_path}: was written by another version"
  ) as caught:
    experiment.open_experiment(config, tmp_path)
  assert "\n" not in str(caught.value)
  assert contents(tmp_path) == before


def test_vocabulary_of_the_models_bounds_what_is_asked_of_the_teacher(
  finished, config, tmp_path
):
  config.teacher.path = str(finished / "teacher")
  config.tokenizer.vocab_size = 4000  # Which the checkpoint does not have.
  size = json.loads((finished / "teacher" / "config.json").read_text())[
    "vocab_size"
  ]
  assert size <= 300
  config.rollout.threshold = float(size + 1)
  with pytest.raises(
    ValueError,
    match=rf"^rollout.threshold = {size + 1}\.0 .*: must be in \[1, {size}\]",
  ):
    experiment.open_experiment(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()
  config.rollout.threshold = float(size)
  opened = experiment.open_experiment(config, tmp_path / "w")
  assert opened.tasks.vocab_size == size


@pytest.mark.parametrize("field", ["teacher.path", "student.init_path"])
def test_limits_beyond_the_positions_of_a_checkpoint_are_refused(
  finished, config, tmp_path, field
):
  folder = str(finished / "teacher")
  config = methods.change(config, {field: folder, "data.max_new_tokens": 17})
  with pytest.raises(
    ValueError,
    match=r"^data\.max_prompt_length \+ data\.max_new_tokens = 49: must be at "
    rf"most 48, the max_position_embeddings of {field} = '{folder}'$",
  ):
    experiment.open_experiment(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("role", "changes", "message"),
  [
    (
      "student",
      {"student.lora.rank": 2},
      r"^student\.lora\.targets has 'gate_proj': must be of k_proj, "
      "o_proj, q_proj, v_proj$",
    ),
    (
      "teacher",
      {"teacher.quantization": "int8"},
      r"^teacher\.quantization = 'int8': must be '' for a model with experts$",
    ),
  ],
)
def test_what_experts_cannot_have_is_refused_before_weights_are_read(
  finished, config, tmp_path, role, changes, message
):
  folder = tmp_path / role
  shutil.copytree(finished / "teacher", folder)
  for name in (manifest.NAME, "model.safetensors"):
    (folder / name).unlink()
  shape = json.loads((folder / "config.json").read_text())
  shape["model_type"] = "mixtral"
  (folder / "config.json").write_text(json.dumps(shape))
  config = methods.change(config, {f"{role}.path": str(folder), **changes})
  with pytest.raises(ValueError, match=message):
    experiment.open_experiment(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_folder_with_more_tokens_than_vocab_size_allows_a_larger_k(
  finished, config, tmp_path
):
  config.teacher.path = str(finished / "teacher")
  config.tokenizer.vocab_size = 10  # Of a tokenizer that is not trained.
  config.rollout.threshold = 200.0
  experiment.open_experiment(config, tmp_path / "w")


@pytest.fixture
def dated(finished, config, tmp_path):
  """The config from a teacher whose chat template writes today's date."""
  folder = tmp_path / "dated"
  shutil.copytree(finished / "teacher", folder)
  (folder / manifest.NAME).unlink()  # Files are changed on purpose.
  tokenizer = tokenizer_lib.load_tokenizer(folder)
  tokenizer.chat_template = (
    "{% if date is not defined %}{% set date = strftime_now('%d %b %Y') %}"
    "{% endif %}{{ date }}" + tokenizer.chat_template
  )
  tokenizer.save_pretrained(folder)
  config.teacher.path = str(folder)
  config.data.max_prompt_length = 30
  config.data.max_new_tokens = 18
  return config


def test_template_of_today_is_refused_before_anything_is_written(
  dated, tmp_path
):
  with pytest.raises(
    ValueError, match=r"^tokenizer\.template_arguments: must have the date"
  ) as caught:
    experiment.open_experiment(dated, tmp_path / "w")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "w").exists()
  dated.tokenizer.template_arguments = {"day": "1 May 2024"}
  with pytest.raises(
    ValueError, match=r"^tokenizer\.template_arguments has 'day': the chat"
  ):
    experiment.open_experiment(dated, tmp_path / "w")


def test_template_arguments_reach_prompts_and_cache_keys(dated, tmp_path):
  dated.tokenizer.template_arguments = {"date": "1 May"}
  opened = experiment.open_experiment(dated, tmp_path / "w")
  (task,) = opened.tasks.tasks
  prompt = opened.tasks.tokenizer.decode(task.test.prompts[0])
  assert prompt.strip().startswith("1 May")
  assert pair.pair_warnings(opened) == []
  key = stages.cache_keys(dated)["teacher"]
  assert key["tokenizer.template_arguments.date"] == "1 May"
  dated.tokenizer.template_arguments = {}
  assert stages.cache_keys(dated)["teacher"] == {
    name: value
    for name, value in key.items()
    if name != "tokenizer.template_arguments.date"
  }


@pytest.mark.parametrize("role", ["teacher", None])
def test_unused_ids_of_the_tokenizer_are_not_cut_off(
  finished, config, tmp_path, role
):
  folder = tmp_path / "gaps"
  shutil.copytree(finished / "teacher", folder)
  (folder / manifest.NAME).unlink()  # Files are changed on purpose.
  words = ["<pad>", "<s>", "</s>", "dog", "tree"]
  core = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({w: 3 * i for i, w in enumerate(words)}, "<s>")
  )
  core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="</s>", pad_token="<pad>"
  ).save_pretrained(folder)
  config.rollout.threshold = 1.0
  if role:
    config.teacher.path = str(folder)
  else:
    config.tokenizer.path = str(folder)
  assert experiment.common_vocab_size(config) == 13
  opened = experiment.open_experiment(config, tmp_path / "w")
  assert opened.tasks.vocab_size == 13


def test_opened_run_has_its_record_data_and_devices(finished, config):
  opened = experiment.open_experiment(config, finished)
  record = json.loads((finished / "config.json").read_text())
  assert record["config"]["seeds"] == [0, 1]
  (task,) = opened.tasks.tasks
  assert len(opened.tasks.train) == 48
  assert (len(task.validation), len(task.test)) == (8, 8)
  assert opened.mesh.size == jax.device_count()
  batches = list(opened.eval_batches(task.test, 8))
  assert sum(int((batch.index >= 0).sum()) for batch in batches) == 8
  batch = next(opened.train_batches(config.distill, 0))
  assert batch.prompt.shape[0] == 8
  small = config.distill.copy_and_resolve_references()
  small.max_examples = 8
  seen = opened.train_batches(small, 0)
  assert set(next(seen).index.tolist()) == set(range(8))


def test_too_few_examples_are_refused_before_anything_is_trained(
  tmp_path, config
):
  config.distill.max_examples = 4
  with pytest.raises(ValueError, match=r"^distill.batch_size = 8: .* the 4 "):
    experiment.open_experiment(config, tmp_path / "w")
  assert not (tmp_path / "w" / "config.json").exists()


def test_stage_is_cached_by_its_own_settings(finished, config):
  def refuse():
    raise AssertionError("the stage is run")

  opened = experiment.open_experiment(config, finished)
  totals = opened.cached("distill_seed_0", refuse)
  assert totals["rollouts"]["emitted"] > 0
  key = stages.cache_keys(config)["distill_seed_0"]
  record = json.loads((finished / "stages" / "distill_seed_0.json").read_text())
  assert record["cache_key"] == key
