"""Settings: bad ones are one clear line, shipped ones load."""

import ast
import importlib
import pathlib
import re

import pytest

from skd_jax import config as config_lib
from skd_jax import config_checks, methods
from skd_jax.reporting import wandb_board

_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def _shipped() -> list[tuple[str, str]]:
  """(file, variant) of all that configs/ holds.

  The variants are the keys of the dict in get_config that maps names to
  functions of the file; a file without such a dict has one, called "".
  """
  found = []
  for path in sorted(_CONFIGS.glob("[!_]*.py")):
    tree = ast.parse(path.read_text("utf-8"))
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    variants = []
    for node in ast.walk(tree):
      if isinstance(node, ast.Dict) and node.keys:
        names = [k.value for k in node.keys if isinstance(k, ast.Constant)]
        values = [v.id for v in node.values if isinstance(v, ast.Name)]
        if values and functions.issuperset(values):
          variants += [(path.stem, name) for name in names]
    found += variants or [(path.stem, "")]
  return found


@pytest.mark.parametrize(("name", "variant"), _shipped())
def test_shipped_config_is_valid(name, variant):
  module = importlib.import_module(f"configs.{name}")
  config = module.get_config(*filter(None, [variant]))
  for model in (config.teacher, config.student):
    if model.checkpoint:
      model.init_path = "FOLDER"
  if "math" in config.data.metrics:
    pytest.importorskip("math_verify", reason="needs the extra `math`")
  config_checks.check_config(config)
  assert config.is_locked


@pytest.mark.parametrize(("name", "variant"), _shipped())
def test_config_comes_back_from_json(name, variant):
  module = importlib.import_module(f"configs.{name}")
  config = module.get_config(*filter(None, [variant]))
  plain = config_lib.to_plain(config)
  again = config_lib.from_plain(plain)
  assert config_lib.to_plain(again) == plain
  assert again.is_locked
  assert isinstance(again.seeds, tuple)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("field", ["path", "init_path"])
def test_missing_checkpoint_says_how_to_get_it(role, field):
  config = config_lib.default_config()
  config[role].checkpoint = "google/gemma-2b-it"
  with pytest.raises(ValueError) as error:
    config_checks.check_config(config)
  message = str(error.value)
  assert "\n" not in message
  assert f"{role}.checkpoint = 'google/gemma-2b-it'" in message
  assert "hf download google/gemma-2b-it --local-dir FOLDER" in message
  assert f"--config.{role}.init_path=FOLDER" in message
  config[role][field] = "FOLDER"
  config_checks.check_config(config)


def test_wandb_without_its_package_is_refused_and_without_a_project_not_asked(
  monkeypatch,
):
  def refuse():
    raise ValueError("needs the package wandb")

  monkeypatch.setattr(wandb_board, "check_installed", refuse)
  config = config_lib.default_config()
  config_checks.check_config(config)
  config.log.wandb = "mine"
  with pytest.raises(ValueError) as caught:
    config_checks.check_config(config)
  assert str(caught.value) == "log.wandb = 'mine': needs the package wandb"


def test_missing_teacher_is_named_before_the_layers_that_are_taken_of_it():
  from configs import gsm8k

  config = gsm8k.get_config()
  assert max(config.student.layers_of_teacher) >= config.teacher.num_layers
  with pytest.raises(
    ValueError, match=r"^teacher\.checkpoint = 'HuggingFaceTB"
  ):
    config_checks.check_config(config)


def test_variants_are_discovered():
  expected = {("wmt", "demo"), ("wmt", "multi30k"), ("multitask", "")}
  assert expected <= set(_shipped())


def test_unknown_variant_names_the_allowed_ones():
  from configs import wmt

  with pytest.raises(
    ValueError, match=r"wmt.py:nope: .*'demo', 'embedded_compare'"
  ):
    wmt.get_config("nope")


def _set(config, field, value):
  *sections, name = field.split(".")
  for section in sections:
    config = config[section]
  config[name] = value


_BY_DISTANCE = dict(methods.METHODS["mixture_by_distance"])
_TOO_LARGE = 2**31 - 1  # As a model has the seed after it, too.
_BAD = [
  ({"distill.learning_rate": 0.0}, "distill.learning_rate = 0.0", "above 0"),
  ({"distill.clip_norm": -1.0}, "distill.clip_norm = -1.0", "above 0"),
  ({"distill.beta2": 1.0}, "distill.beta2 = 1.0", "in [0, 1)"),
  ({"seeds": (0, -1)}, "seeds = (0, -1)", "not negative"),
  ({"dtype": "float16"}, "dtype = 'float16'", "float32"),
  ({"export_dtype": "auto"}, "export_dtype = 'auto'", "bfloat16"),
  ({"teacher.quantization": "fp8"}, "teacher.quantization = 'fp8'", "int4"),
  ({"data.kind": "embeded"}, "data.kind = 'embeded'", "embedded"),
  ({"data.metrics": ("blue",)}, "data.metrics has 'blue'", "bleu, chrf"),
  ({"data.metrics": ()}, "data.metrics = ()", "at least one"),
  (
    {"data.metrics": ("comet",)},
    "data.metrics has 'comet'",
    "evaluate.comet_checkpoint",
  ),
  ({"mixing_temperature": 0.0}, "mixing_temperature = 0.0", "above 0"),
  ({"data.long_prompts": "cut"}, "data.long_prompts = 'cut'", "'leave_out'"),
  ({"data.turns": "first"}, "data.turns = 'first'", "['last', 'all']"),
  (
    {"data.kind": "messages", "data.prompt": "Say: {source}"},
    "data.prompt = 'Say: {source}'",
    "must be '{source}' for data.kind = 'messages'",
  ),
  ({"data.weight": 0.0}, "data.weight = 0.0", "above 0"),
  (
    {"tasks": {"sums": {"max_new_token": 5}}},
    "tasks.sums.max_new_token = 5",
    "'max_new_tokens'",
  ),
  (
    {"tasks": {"sums": {"length_multiple": 5}}},
    "tasks.sums.length_multiple = 5",
    "'max_new_tokens'",
  ),
  (
    {"tasks": {"sums": {"max_new_tokens": "many"}}},
    "tasks.sums.max_new_tokens = 'many'",
    "must be of type int",
  ),
  ({"tasks": {"my sums": {}}}, "tasks has 'my sums'", "letters, digits and _"),
  ({"tasks": {"two\nlines": {}}}, "tasks has 'two\\nlines'", "letters, digits"),
  ({"tasks": {"mean": {}}}, "tasks has 'mean'", "not 'mean'"),
  ({"tasks": {"sums": 5}}, "tasks.sums = 5", "settings by name"),
  (
    {"tasks": {"sums": {"max_new_tokens": None}}},
    "tasks.sums.max_new_tokens = None",
    "of type int",
  ),
  # What ml_collections takes for any type.
  ({"seed": None}, "seed = None", "of type int"),
  ({"distill.num_steps": None}, "distill.num_steps = None", "of type int"),
  ({"rollout.accept": None}, "rollout.accept = None", "of type str"),
  ({"tokenizer.template_arguments": None}, "tokenizer.template_argum", "Dict"),
  ({"seeds": (None,)}, "seeds = (None,)", "texts or of whole numbers"),
  ({"seeds": ("0",)}, "seeds = ('0',)", "whole numbers"),
  ({"baselines": ((),)}, "baselines = ((),)", "texts or of whole numbers"),
  *(
    ({field: float("nan")}, f"{field} = nan", "a number")
    for field in (
      "data.weight",
      "mixing_temperature",
      "distill.checkpoint_every_minutes",
    )
  ),
  ({"data.weight": float("inf")}, "data.weight = inf", "above 0"),
  (
    {"distill.learning_rate": float("inf")},
    "distill.learning_rate = inf",
    "above 0",
  ),
  (
    {
      "rollout.accept": "bridge",
      "rollout.replace": "residual",
      "rollout.threshold": float("inf"),
      "rollout.threshold_schedule": "linear",
    },
    "rollout.threshold_schedule = 'linear' from inf to 25.0",
    "finite",
  ),
  ({"data.stop_strings": ("",)}, "data.stop_strings has ''", "not empty"),
  ({"data.stop_strings": (5,)}, "data.stop_strings has 5", "a text"),
  ({"data.max_train_examples": -1}, "data.max_train_examples = -1", "0 or"),
  ({"evaluate.num_samples": -1}, "evaluate.num_samples = -1", "0 or above"),
  (
    {"evaluate.serving_temperature": -1.0},
    "evaluate.serving_temperature = -1.0",
    "0 (greedy)",
  ),
  ({"evaluate.serving_top_p": 0.0}, "evaluate.serving_top_p = 0.0", "(0, 1]"),
  ({"teacher.hidden_size": 0}, "teacher.hidden_size = 0", "at least 1"),
  ({"student.num_heads": 5}, "student.num_heads = 5", "num_kv_heads = 2"),
  ({"teacher.checkpoint": "a\nb"}, "teacher.checkpoint = 'a\\nb'", "a name"),
  ({"tasks": {"sums": {"kind": "x"}}}, "tasks.sums.kind = 'x'", "arithmetic"),
  ({"tasks": {"sums": {"prompt": "x"}}}, "tasks.sums.prompt = 'x'", "{source}"),
  ({"tasks": {"a": {"weight": -1.0}}}, "tasks.a.weight = -1.0", "above 0"),
  (
    {
      "tasks": {"a": {"max_new_tokens": 3}, "b": {"max_new_tokens": 4}},
      "rollout.num_draft_tokens": 5,
    },
    "rollout.num_draft_tokens = 5",
    "tasks.b.max_new_tokens = 4",
  ),
  ({"rollout.mode": "SKD"}, "rollout.mode = 'SKD'", "on_policy"),
  ({"data.max_new_tokens": 0}, "data.max_new_tokens = 0", "1 or above"),
  ({"data.max_prompt_length": -1}, "data.max_prompt_length = -1", "1 or"),
  ({"data.length_multiple": 0}, "data.length_multiple = 0", "1 or above"),
  ({"data.num_steps": 0}, "data.num_steps = 0", "[1, 64]"),
  ({"data.num_steps": 65}, "data.num_steps = 65", "[1, 64]"),
  ({"data.min_steps": 6}, "data.min_steps = 6", "[0, 5]"),
  ({"data.min_steps": -1}, "data.min_steps = -1", "[0, 5]"),
  ({"data.noise": 1.5}, "data.noise = 1.5", "[0, 1]"),
  ({"tasks": {"a": {"noise": -0.5}}}, "tasks.a.noise = -0.5", "[0, 1]"),
  ({"data.prompt": "Translate."}, "data.prompt = 'Translate.'", "{source}"),
  ({"tokenizer.vocab_size": 0}, "tokenizer.vocab_size = 0", "1 or above"),
  (
    {"tokenizer.template_arguments": {"x": "y"}},
    "tokenizer.template_arguments = {'x': 'y'}",
    "must be empty where the tokenizer is trained",
  ),
  (
    {"tokenizer.template_arguments": {"x": (1, 2)}, "tokenizer.path": "A"},
    "tokenizer.template_arguments.x = (1, 2)",
    "must be a text, a number, True, False or None",
  ),
  (
    {"rollout.num_draft_tokens": -1},
    "rollout.num_draft_tokens = -1",
    "[0, data.max_new_tokens = 64]",
  ),
  (
    {"rollout.num_draft_tokens": 65},
    "rollout.num_draft_tokens = 65",
    "data.max_new_tokens = 64",
  ),
  ({"rollout.batch_size": 65}, "rollout.batch_size = 65", "[0, distill.batch"),
  ({"profile": -1}, "profile = -1", "0 or above"),
  ({"max_step_minutes": -1.0}, "max_step_minutes = -1.0", "0 or above"),
  (
    {"profile": 9, "distill.num_steps": 10},
    "profile = 9",
    "[0, distill.num_steps - 2 = 8]",
  ),
  ({"rollout.accept": "topk"}, "rollout.accept = 'topk'", "'top_k'"),
  ({"rollout.replace": "best"}, "rollout.replace = 'best'", "'argmax'"),
  (
    {"rollout.replace": "residual"},
    "rollout.replace = 'residual' with rollout.accept = 'top_k'",
    "'argmax'",
  ),
  (
    {"rollout.accept": "lossless"},
    "rollout.replace = 'sample' with rollout.accept = 'lossless'",
    "residual",
  ),
  ({"rollout.threshold": 0.0}, "rollout.threshold = 0.0", "[1, 4000]"),
  ({"rollout.threshold": 4001.0}, "rollout.threshold = 4001.0", "[1, 4000]"),
  ({"rollout.threshold": 2.5}, "rollout.threshold = 2.5", "whole number"),
  (
    {"rollout.accept": "top_p", "rollout.threshold": 1.5},
    "rollout.threshold = 1.5",
    "[0, 1]",
  ),
  (
    {"rollout.student_temperature": -0.1},
    "rollout.student_temperature = -0.1",
    "0 (greedy), or 1e-06 or above",
  ),
  (
    {"rollout.teacher_temperature": -1.0},
    "rollout.teacher_temperature = -1.0",
    "0 (greedy), or 1e-06 or above",
  ),
  ({"rollout.teacher_top_p": 0.0}, "rollout.teacher_top_p = 0.0", "(0, 1]"),
  ({"rollout.student_top_p": 1.1}, "rollout.student_top_p = 1.1", "(0, 1]"),
  ({"loss.objective": "kd"}, "loss.objective = 'kd'", "'cross_entropy'"),
  (
    {"loss.divergence": "cross_entropy"},
    "loss.divergence = 'cross_entropy'",
    "'forward_kl'",
  ),
  ({"loss.divergence": "kl"}, "loss.divergence = 'kl'", "'forward_kl'"),
  (
    {"loss.divergence": "jsd", "loss.beta": 1.0},
    "loss.beta = 1.0",
    "inside (0, 1)",
  ),
  (
    {"loss.divergence": "top_k_forward_kl", "loss.k": 4000},
    "loss.k = 4000",
    "[1, 3999]",
  ),
  (
    {"rollout.threshold_schedule": "distance"},
    "rollout.accept = 'top_k' with rollout.threshold_schedule = 'distance'",
    "must be 'mixture'",
  ),
  (
    _BY_DISTANCE | {"rollout.threshold_end": 0.0},
    "rollout.threshold_end = 0.0 with rollout.threshold_schedule = 'distance'",
    "above 0, and at most rollout.threshold = 1.0",
  ),
  (
    _BY_DISTANCE | {"rollout.max_interventions": 2},
    "rollout.max_interventions = 2 with rollout.threshold_schedule",
    "must be 0",
  ),
  (
    {"rollout.reference_share_schedule": "distance"},
    "rollout.reference_share_schedule = 'distance'",
    "must be one of",
  ),
  (
    {"rollout.threshold_schedule": "steep"},
    "rollout.threshold_schedule = 'steep'",
    "'cosine'",
  ),
  (
    {"rollout.threshold_schedule": "linear", "rollout.threshold_end": 0.0},
    "rollout.threshold_end = 0.0",
    "[1, 4000]",
  ),
  (
    {
      "rollout.threshold_schedule": "linear",
      "rollout.accept": "lossless",
      "rollout.replace": "residual",
    },
    "rollout.threshold_schedule = 'linear' with rollout.accept = 'lossless'",
    "'constant'",
  ),
  (
    {"rollout.threshold_schedule": "cosine", "rollout.mode": "teacher"},
    "rollout.threshold_schedule = 'cosine' with rollout.mode = 'teacher'",
    "'skd'",
  ),
  (
    {"rollout.accept": "released_top_k", "rollout.threshold": 0.5},
    "rollout.threshold = 0.5",
    "[1, 4000]",
  ),
  (
    {"rollout.reference_share": 1.5},
    "rollout.reference_share = 1.5",
    "[0, 1]",
  ),
  ({"rollout.switch_at": -0.1}, "rollout.switch_at = -0.1", "[0, 1]"),
  (
    {"rollout.mode": "reference", "rollout.reference_share": 0.5},
    "rollout.reference_share = 0.5",
    "must be 0",
  ),
  (
    {"rollout.mode": "reference", "loss.weights": "accepted_only"},
    "loss.weights = 'accepted_only' with rollout.mode = 'reference'",
    "'skd'",
  ),
  (
    {"rollout.mode": "on_policy", "loss.corrections": "cross_entropy"},
    "loss.corrections = 'cross_entropy' with rollout.mode = 'on_policy'",
    "'skd'",
  ),
  (
    {"rollout.accept": "always", "loss.corrections": "cross_entropy"},
    "loss.corrections = 'cross_entropy' with rollout.mode = 'skd' and "
    "rollout.accept = 'always'",
    "another accept",
  ),
  (
    {"loss.objective": "cross_entropy", "loss.corrections": "reverse_kl"},
    "loss.corrections = 'reverse_kl' with loss.objective = 'cross_entropy'",
    "must be empty",
  ),
  ({"baselines": ("skdd",)}, "baselines = ('skdd',)", "of sft, seq_kd"),
  ({"baselines": ("random",)}, "baselines = ('random',)", "of sft, seq_kd"),
  (
    {"baselines": ("bridge",), "rollout.teacher_temperature": 0.0},
    "baselines has 'bridge': rollout.teacher_temperature = 0",
    "above 0",
  ),
  ({"loss.corrections": "cross"}, "loss.corrections = 'cross'", "reverse_kl"),
  ({"rollout.leg_length": 0}, "rollout.leg_length = 0", "1 or above"),
  (
    {"rollout.max_interventions": -1},
    "rollout.max_interventions = -1",
    "0 or above",
  ),
  (
    {"rollout.threshold_decay": -0.5},
    "rollout.threshold_decay = -0.5",
    "0 or above",
  ),
  (
    {"rollout.mode": "on_policy", "rollout.leg_length": 4},
    "rollout.leg_length = 4 with rollout.mode = 'on_policy'",
    "'skd'",
  ),
  (
    {
      "rollout.accept": "bridge",
      "rollout.replace": "residual",
      "rollout.threshold": -0.1,
    },
    "rollout.threshold = -0.1 with rollout.accept = 'bridge'",
    "must be 0 or above",
  ),
  (
    {
      "rollout.accept": "bridge",
      "rollout.replace": "residual",
      "rollout.teacher_temperature": 0.0,
    },
    "rollout.teacher_temperature = 0 with rollout.accept = 'bridge'",
    "above 0",
  ),
  (
    {
      "rollout.accept": "prob_floor",
      "rollout.threshold": 0.5,
      "rollout.threshold_end": 0.0,
      "rollout.threshold_schedule": "geometric",
    },
    "rollout.threshold_schedule = 'geometric' from 0.5 to 0.0",
    "above 0",
  ),
  (
    {"rollout.first_tokens": 99},
    "rollout.first_tokens = 99",
    "data.max_new_tokens = 64",
  ),
  (
    {"rollout.first_tokens_schedule": "linear"},
    "rollout.first_tokens = 0 with rollout.first_tokens_schedule = 'linear'",
    "[1, ",
  ),
  (
    {"rollout.accept": "never", "loss.weights": "accepted_only"},
    "loss.weights = 'accepted_only' with rollout.accept = 'never'",
    "rollout.accept",
  ),
  (
    {"rollout.reference_share": 0.5, "loss.weights": "accepted_only"},
    "loss.weights = 'accepted_only' with rollout.reference_share = 0.5",
    "reference_share to 0",
  ),
  (
    {"loss.objective": "cross_entropy", "loss.weights": "verified"},
    "loss.weights = 'verified' with loss.objective = 'cross_entropy'",
    "'uniform'",
  ),
  (
    {"loss.objective": "cross_entropy", "rollout.mode": "on_policy"},
    "loss.objective = 'cross_entropy' with rollout.mode = 'on_policy'",
    "'reference'",
  ),
  ({"loss.verified_k": 0}, "loss.verified_k = 0", "1 or above"),
  (
    {"loss.unverified_weight": -1.0},
    "loss.unverified_weight = -1.0",
    "[0, 1]",
  ),
  ({"loss.weights": "none"}, "loss.weights = 'none'", "'uniform'"),
  ({"loss.chunk_size": -1}, "loss.chunk_size = -1", "0 or above"),
  ({"evaluate.batch_size": 0}, "evaluate.batch_size = 0", "1 or above"),
  ({"distill.batch_size": 0}, "distill.batch_size = 0", "1 or above"),
  (
    {"distill.num_microbatches": 3},
    "distill.num_microbatches = 3",
    "divide distill.batch_size = 64",
  ),
  (
    {"teacher.fit.packed_length": 127},
    "teacher.fit.packed_length = 127",
    "data.max_prompt_length + data.max_new_tokens = 128",
  ),
  (
    {"student.fit.packed_length": -1},
    "student.fit.packed_length = -1",
    "0, or at least",
  ),
  (
    {"distill.packed_length": 128},
    "distill.packed_length = 128 with rollout.mode = 'skd'",
    "'reference'",
  ),
  (
    {
      "distill.packed_length": 128,
      "rollout.mode": "reference",
      "rollout.first_tokens": 8,
    },
    "distill.packed_length = 128 with rollout.first_tokens = 8",
    "set both to 0",
  ),
  (
    {"distill.max_skipped_steps": -1},
    "distill.max_skipped_steps = -1",
    "0 or above",
  ),
  ({"teacher.fit.num_steps": -1}, "teacher.fit.num_steps = -1", "0 or above"),
  ({"student.fit.decay": "step"}, "student.fit.decay = 'step'", "'cosine'"),
  (
    {"distill.checkpoint_every_minutes": -0.5},
    "distill.checkpoint_every_minutes = -0.5",
    "0 or above",
  ),
  ({"teacher.fit.keep_last": 0}, "teacher.fit.keep_last = 0", "1 or above"),
  ({"distill.keep_best": -1}, "distill.keep_best = -1", "0 or above"),
  ({"distill.result": "first"}, "distill.result = 'first'", "'best'"),
  (
    {"student.fit.result": "best"},
    "student.fit.result = 'best' with student.fit.keep_best = 0",
    "1 or above",
  ),
  *(
    (
      {"distill.keep_best": 1, "distill.evaluate_every_steps": every},
      f"distill.evaluate_every_steps = {every} with distill.keep_best = 1",
      "in [1, distill.num_steps = 500]",
    )
    for every in (0, 501)
  ),
  *(
    (
      {
        f"{stage}.keep_best": 1,
        f"{stage}.evaluate_every_steps": 10,
        f"{stage}.best_metric": metric,
      },
      f"{stage}.best_metric = {metric!r}",
      f"one of {allowed}",
    )
    # There is no teacher that a teacher is compared with.
    for stage, metric, allowed in (
      ("distill", "", "['bleu', 'chrf', 'kl', 'agreement'"),
      ("distill", "validation_bleu", "['bleu', 'chrf', 'kl', 'agreement'"),
      ("teacher.fit", "-kl", "['bleu', 'chrf']"),
    )
  ),
  (
    {
      "tasks": {"a": {"metrics": ("bleu",)}},
      "teacher.fit.keep_best": 1,
      "teacher.fit.evaluate_every_steps": 10,
      "teacher.fit.best_metric": "bleu",
    },
    "teacher.fit.best_metric = 'bleu'",
    "one of ['a_bleu', 'mean']",
  ),
  (
    {"data.dir": "https://me:secret@host/data"},
    "data.dir = 'https://***@host/data'",
    "no password",
  ),
  (
    {"tasks": {"sums": {"dir": "gs://:secret@host"}}},
    "tasks.sums.dir = 'gs://***@host'",
    "no password",
  ),
  (
    {"stop_on_warnings": ("gap", "boring")},
    "stop_on_warnings has 'boring'",
    "repetitive",
  ),
  ({"must_save_by": "soon"}, "must_save_by = 'soon'", "2026-12-31T23:30"),
  (
    {"must_save_by": "2026-01-31"},
    "must_save_by = '2026-01-31'",
    "not be over",
  ),
  ({"seeds": (3, 3)}, "seeds = (3, 3)", "distinct"),
  ({"seeds": ()}, "seeds = ()", "at least one"),
  ({"seeds": (0, _TOO_LARGE)}, f"seeds = (0, {_TOO_LARGE})", "at most"),
  ({"seeds": (2**31,)}, f"seeds = ({2**31},)", f"at most {_TOO_LARGE - 1}"),
  ({"seed": _TOO_LARGE}, f"seed = {_TOO_LARGE}", f"at most {_TOO_LARGE - 1}"),
  ({"seed": -1}, "seed = -1", "not negative"),
  (
    {"teacher.path": "A", "teacher.init_path": "B"},
    "teacher.init_path = 'B' with teacher.path = 'A'",
    "must be empty",
  ),
  (
    {"student.path": "A", "student.init_path": "B"},
    "student.init_path = 'B' with student.path = 'A'",
    "must be empty",
  ),
  (
    {"student.layers_of_teacher": (0, 3)},
    "student.layers_of_teacher = (0, 3)",
    "increasing layer numbers in [0, 2]",
  ),
  (
    {"student.layers_of_teacher": (1, 0), "teacher.path": "A"},
    "student.layers_of_teacher = (1, 0)",
    "increasing layer numbers",
  ),
  (
    {"student.layers_of_teacher": ("a",), "teacher.init_path": "A"},
    "student.layers_of_teacher = ('a',)",
    "increasing layer numbers",
  ),
  (
    {"student.lora.rank": -1},
    "student.lora.rank = -1",
    "must be 0 or above",
  ),
  (
    {"student.lora.rank": 8},
    "student.lora.rank = 8 with student.path = ''",
    "student.fit trains all",
  ),
  (
    {"student.lora.rank": 8, "student.init_path": "A"},
    "student.lora.rank = 8 with student.path = ''",
    "the folder of the frozen weights",
  ),
  ({"student.lora.alpha": 0.0}, "student.lora.alpha = 0.0", "above 0"),
  ({"rollout.max_staleness": 2}, "rollout.max_staleness = 2", "[0, 1]"),
  *(
    (
      {"rollout.max_staleness": 1, "rollout.mode": mode},
      f"rollout.max_staleness = 1 with rollout.mode = '{mode}'",
      "must be 0, or choose the mode 'skd' or 'on_policy'",
    )
    for mode in ("reference", "teacher")
  ),
  (
    {"rollout.max_staleness": 1, "rollout.reference_share": 1.0},
    "rollout.max_staleness = 1 with rollout.reference_share = 1.0, constant",
    "must be 0",
  ),
  (
    {"mesh.rollout_devices": 4},
    "mesh.rollout_devices = 4 with rollout.max_staleness = 0",
    "must be 0, or choose rollout.max_staleness = 1",
  ),
  ({"teacher_cache.top_k": -1}, "teacher_cache.top_k = -1", "0 or above"),
  (
    {"teacher_cache.top_k": 9, "rollout.mode": "skd"},
    "teacher_cache.top_k = 9 with rollout.mode = 'skd'",
    "choose the mode 'reference' or 'teacher'",
  ),
  (
    {"teacher_cache.top_k": 9, "rollout.mode": "on_policy"},
    "teacher_cache.top_k = 9 with rollout.mode = 'on_policy'",
    "choose the mode 'reference' or 'teacher'",
  ),
  *(
    (
      {"rollout.mode": "reference", "teacher_cache.top_k": 9, **more},
      "teacher_cache.top_k = 9 with " + named,
      allowed,
    )
    for more, named, allowed in (
      (
        {"loss.divergence": "reverse_kl"},
        "loss.divergence = 'reverse_kl'",
        "'forward_kl', 'jsd', ",
      ),
      (
        {"loss.divergence": "top_k_forward_kl"},
        "loss.divergence = 'top_k_forward_kl'",
        "'forward_kl', 'jsd', ",
      ),
      (
        {"loss.objective": "cross_entropy"},
        "loss.objective = 'cross_entropy'",
        "must be 0, or",
      ),
      (
        {"loss.weights": "verified"},
        "loss.weights = 'verified'",
        "'uniform'",
      ),
      (
        {"distill.packed_length": 4000},
        "distill.packed_length = 4000",
        "one of them must be 0",
      ),
      (
        {"rollout.first_tokens": 4},
        "rollout.first_tokens = 4, constant",
        "first_tokens 0",
      ),
      (
        {"rollout.mode": "teacher", "rollout.reference_share": 0.5},
        "rollout.reference_share = 0.5, constant",
        "reference_share 0",
      ),
    )
  ),
  (
    {"rollout.mode": "reference", "teacher_cache.top_k": 4001},
    "teacher_cache.top_k = 4001",
    "[0, 4000]",
  ),
  *(
    (
      {
        "rollout.mode": "reference",
        "teacher_cache.top_k": 9,
        "tasks": {"one": {}, "two": {}},
        "teacher_cache.teachers": {"two": "folder"},
        **more,
      },
      named,
      allowed,
    )
    for more, named, allowed in (
      (
        {"teacher_cache.top_k": 0},
        "teacher_cache.teachers = {'two': 'folder'} with "
        "teacher_cache.top_k = 0",
        "one teacher at a time",
      ),
      (
        {"teacher_cache.teachers": {"three": "folder"}},
        "teacher_cache.teachers = {'three': 'folder'}",
        "['one', 'two']",
      ),
      (
        {"teacher_cache.teachers": {"one": "a", "two": "b"}},
        "teacher_cache.teachers = {'one': 'a', 'two': 'b'}",
        "leave one of them",
      ),
      (
        {"teacher_cache.teachers": {"two": ""}},
        "teacher_cache.teachers = {'two': ''}",
        "the folder",
      ),
      (
        {"baselines": ("teacher_kd",)},
        "teacher_cache.teachers = {'two': 'folder'} with baselines = "
        "('teacher_kd',)",
        "must be empty",
      ),
    )
  ),
  (
    {"rollout.mode": "reference", "teacher_cache.num_responses": 2},
    "teacher_cache.num_responses = 2 with rollout.mode = 'reference'",
    "must be 1, or choose the mode 'teacher'",
  ),
  (
    {"student.lora.targets": ("q_proj", "query")},
    "student.lora.targets = ('q_proj', 'query')",
    "o_proj, gate_proj",
  ),
  (
    {"student.lora.targets": ("q_proj", "q_proj")},
    "student.lora.targets = ('q_proj', 'q_proj')",
    "distinct",
  ),
  ({"student.lora.targets": ()}, "student.lora.targets = ()", "at least one"),
  (
    {"student.layers_of_teacher": (0,), "student.path": "A"},
    "student.layers_of_teacher = (0,) with student.path = 'A'",
    "must be empty",
  ),
  (
    {"student.layers_of_teacher": (0,), "student.init_path": "A"},
    "student.layers_of_teacher = (0,) with student.init_path = 'A'",
    "must be empty",
  ),
  (
    {"student.layers_of_teacher": (0,), "student.checkpoint": "A"},
    "student.layers_of_teacher = (0,) with student.checkpoint = 'A'",
    "must be empty",
  ),
]


@pytest.mark.parametrize(
  ("changes", "named", "allowed"), _BAD, ids=[bad[1] for bad in _BAD]
)
def test_bad_value_is_one_line_with_field_value_and_what_is_allowed(
  changes, named, allowed
):
  config = config_lib.default_config()
  for field, value in changes.items():
    _set(config, field, value)
  with pytest.raises(ValueError) as caught:
    config_checks.check_config(config)
  message = str(caught.value)
  assert message.startswith(named)
  assert allowed in message.removeprefix(named)
  assert "\n" not in message


def test_single_task_is_the_data_section():
  config = config_lib.default_config()
  assert config_lib.task_sections(config) == {"data": config.data}


def test_tasks_change_the_data_section_each_for_itself():
  config = config_lib.default_config()
  config.data.max_test_examples = 9
  config.tasks = {
    "a": {"max_new_tokens": 7, "stop_strings": ("x",), "weight": 2},
    "b": {"kind": "arithmetic"},
  }
  sections = config_lib.task_sections(config)
  assert list(sections) == ["tasks.a", "tasks.b"]
  a, b = sections.values()
  assert (a.max_new_tokens, a.stop_strings, a.weight) == (7, ("x",), 2.0)
  assert (b.max_new_tokens, b.stop_strings, b.weight) == (64, (), 1.0)
  assert (a.kind, b.kind) == ("embedded", "arithmetic")
  assert a.max_test_examples == b.max_test_examples == 9
  assert config.data.max_new_tokens == 64
  config_checks.check_config(config)


def test_misspelt_field_is_an_error_that_names_the_near_one():
  config = config_lib.default_config()
  with pytest.raises(AttributeError, match='mean "num_draft_tokens"'):
    config.rollout.num_draft_token = 3
  with pytest.raises(KeyError, match='mean "learning_rate"'):
    config.distill.update(learning_rat=1e-3)


def test_plain_config_is_what_json_reads_back():
  config = config_lib.default_config()
  config.data.stop_strings = ("Q:", "\n")
  plain = config_lib.to_plain(config)
  assert plain["seeds"] == [0]
  assert plain["data"]["stop_strings"] == ["Q:", "\n"]
  assert plain["rollout"]["threshold"] == 25.0


def test_largest_seed_is_allowed():
  config = config_lib.default_config()
  config.seeds, config.seed = (0, _TOO_LARGE - 1), _TOO_LARGE - 1
  config_checks.check_config(config)


@pytest.mark.parametrize(
  "changes",
  [
    {"rollout.threshold": 5000.0},
    {"rollout.threshold_schedule": "linear", "rollout.threshold_end": 5000.0},
    {"loss.divergence": "top_k_forward_kl", "loss.k": 5000},
  ],
)
def test_vocabulary_of_a_folder_bounds_what_tokenizer_vocab_size_does_not(
  changes,
):
  config = config_lib.default_config()
  config.teacher.path = "FOLDER"
  config = methods.change(config, changes)
  config_checks.check_config(config)  # The vocabulary is not known yet.
  config_checks.check_vocabulary(config, 5001)
  field = list(changes)[-1]
  with pytest.raises(ValueError, match=rf"^{field} = 5000") as caught:
    config_checks.check_vocabulary(config, 4999)
  assert "\n" not in str(caught.value)


def test_limits_beyond_the_positions_of_a_checkpoint_are_refused():
  config = config_lib.default_config()
  config.student.init_path = "B"
  config_checks.check_positions(config, {"student.init_path": 128})
  with pytest.raises(ValueError) as caught:
    config_checks.check_positions(
      config, {"teacher.path": 128, "student.init_path": 127}
    )
  assert str(caught.value) == (
    "data.max_prompt_length + data.max_new_tokens = 128: must be at most 127, "
    "the max_position_embeddings of student.init_path = 'B'"
  )
  config.tasks = {"a": {}, "long": {"max_new_tokens": 65}}
  with pytest.raises(ValueError, match=r"^tasks\.long\.max_prompt_length \+ "):
    config_checks.check_positions(config, {"student.init_path": 128})


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket"])
def test_address_is_no_workdir(address):
  with pytest.raises(ValueError, match=f"^workdir = '{address}': must be a"):
    config_checks.check_workdir(address)


def test_password_of_an_address_is_not_shown():
  with pytest.raises(
    ValueError, match=r"^workdir = 'gs://\*\*\*@bucket': must"
  ):
    config_checks.check_workdir("gs://me:secret@bucket")


@pytest.mark.parametrize("metric", ["bleu", "-kl", "student_top_mass"])
def test_best_checkpoint_is_by_a_score_of_the_validation(metric):
  config = config_lib.default_config()
  config.distill.update(
    keep_best=1, result="best", evaluate_every_steps=500, best_metric=metric
  )
  config_checks.check_config(config)


def test_address_without_a_password_is_a_setting_like_any():
  config = config_lib.default_config()
  config.data.dir = "https://host:80/a@b"
  config_checks.check_config(config)


def test_workdir_must_be_a_folder(tmp_path):
  with pytest.raises(ValueError, match=r"^workdir = '': must be a folder$"):
    config_checks.check_workdir("")
  (tmp_path / "file").touch()
  with pytest.raises(ValueError, match=r"file': must be a folder, is a file$"):
    config_checks.check_workdir(tmp_path / "file")


def test_workdir_is_a_path(tmp_path):
  assert config_checks.check_workdir(str(tmp_path)) == tmp_path
  assert config_checks.check_workdir(tmp_path) == tmp_path


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"evaluate.batch_size": 6}, "evaluate.batch_size = 6"),
    ({"rollout.batch_size": 6}, "rollout.batch_size = 6"),
    ({"distill.batch_size": 68}, None),
    (
      {"distill.batch_size": 68, "distill.num_microbatches": 2},
      "distill.batch_size = 68: must be a multiple of mesh.data * mesh.fsdp * "
      "num_microbatches = 8",
    ),
    ({"teacher.fit.batch_size": 6}, "teacher.fit.batch_size = 6"),
    # What is not trained has no batch.
    ({"teacher.fit.batch_size": 6, "teacher.path": "A"}, None),
  ],
)
def test_rows_must_fit_the_mesh(changes, named):
  config = methods.change(config_lib.default_config(), changes)
  if named is None:
    config_checks.check_rows(config, 4)
    return
  with pytest.raises(ValueError, match=re.escape(named)):
    config_checks.check_rows(config, 4)


@pytest.mark.parametrize("field", ["distill.batch_size", "rollout.batch_size"])
def test_rows_must_fit_the_devices_that_generate(field):
  config = methods.change(
    config_lib.default_config(), {"distill.batch_size": 12, field: 4}
  )
  config_checks.check_rows(config, 4, 2)
  said = re.escape(
    f"{field} = 4: must be a multiple of mesh.rollout_devices / mesh.tensor = 3"
  )
  with pytest.raises(ValueError, match=said):
    config_checks.check_rows(config, 4, 3)
