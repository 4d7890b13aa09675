"""Every setting, once, with what it means.

An experiment (configs/*.py) starts from `default_config()` and changes a few
lines. A misspelt name is an error: the config is locked.
"""

import json
from typing import Any

import ml_collections


def fit_config(**changes) -> ml_collections.ConfigDict:
  """How one model is trained: the optimizer, its schedule, the batches.

  Args:
    **changes: fields to set.
  """
  config = ml_collections.ConfigDict()
  config.num_steps = 1000
  config.batch_size = 64
  # The batch is cut into so many parts, one after the other through the model;
  # the update is that of the whole batch.
  config.num_microbatches = 1
  # Where the responses are references: tokens of a row that holds several
  # examples, which changes the speed, not the update. 0: one example a row.
  config.packed_length = 0
  config.learning_rate = 1e-3
  config.warmup_steps = 50  # At most a tenth of num_steps is used.
  config.decay = "linear"  # After the warm-up: linear, cosine, constant.
  config.clip_norm = 1.0  # Of the gradient, global.
  config.weight_decay = 0.01
  config.beta1 = 0.9
  config.beta2 = 0.98
  # Steps in a row whose loss or gradient is not finite that are left out before
  # the run stops; 0: the first one stops it.
  config.max_skipped_steps = 0
  config.max_examples = 0  # Train on the first so many a task; 0 is all.
  config.log_every_steps = 20
  config.checkpoint_every_steps = 200
  config.checkpoint_every_minutes = 0.0  # By the clock as well; 0 is not.
  config.evaluate_every_steps = 0  # On validation; 0 is never.
  # Checkpoints that are kept: the last so many, and the best so many by a score
  # of the validation, after which it is then saved. A score is named as in the
  # log without validation_, such as bleu; -kl: the smallest is the best.
  config.keep_last = 2
  config.keep_best = 0
  config.best_metric = ""
  # The weights that the stage ends with, which a report scores and an export
  # has: last; or best, which needs keep_best.
  config.result = "last"
  config.update(changes)
  return config


def model_config(**changes) -> ml_collections.ConfigDict:
  """Where a model comes from, or its shape when it is made from scratch.

  Args:
    **changes: fields to set.
  """
  config = ml_collections.ConfigDict()
  # A Hugging Face folder to use as it is: the stage is skipped.
  config.path = ""
  # A Hugging Face folder to start the stage from. Empty: random weights of the
  # shape below.
  config.init_path = ""
  # What one of these two must hold, by its name on the Hugging Face hub, such
  # as google/gemma-7b-it; the shape below is then not used. Empty: anything.
  config.checkpoint = ""
  config.hidden_size = 256
  config.intermediate_size = 768
  config.num_layers = 3
  config.num_heads = 8
  config.num_kv_heads = 4
  config.head_dim = 32
  # Where it is trained: keep less for the backward pass, and compute each layer
  # once more there.
  config.remat = False
  config.update(changes)
  config.fit = fit_config()  # Supervised fine-tuning on the references (SFT).
  return config


def default_config() -> ml_collections.ConfigDict:
  """Returns every setting with its default; the defaults need no download."""
  config = ml_collections.ConfigDict()
  config.task = "translation"  # The title of the report.
  config.seed = 0  # Of the weights and the data order of teacher and student.
  # Distillation is run once for each of these, from the same start.
  config.seeds = (0,)
  # Methods of skd_jax/methods.py that are run beside it with the same seeds,
  # steps and start, to compare with in the report.
  config.baselines = ()
  # Of activations and caches: float32, bfloat16; auto is bfloat16 where the
  # device has matrix units for it. The student's weights stay float32.
  config.dtype = "auto"
  # Of the weights in WORKDIR/export: float32, as they were trained, or bfloat16
  # at half the size.
  config.export_dtype = "float32"
  # By this time, as in "2026-12-31T23:30" (local, or with its zone), the run
  # has saved and stopped: the end of an allocation. Empty: none.
  config.must_save_by = ""
  # Minutes after which a step is stuck: the process shows where every thread is
  # and ends with exit code 75, to be started again. 0: never. A batch of a new
  # width compiles, which counts; the first step of a process does not.
  config.max_step_minutes = 0.0
  # Warnings at which the run ends, such as ("endless", "repetitive"): of gap,
  # inert, endless, repetitive; see skd_jax/training/health.py.
  config.stop_on_warnings = ()
  # Steps of distillation to trace with jax.profiler, into WORKDIR/profile; the
  # first two, which compile, are left out. 0 is none.
  config.profile = 0

  config.log = ml_collections.ConfigDict()
  # The project of Weights & Biases that shows the run as well, which needs the
  # extra `wandb`; empty: none. Files and TensorBoard are written anyway.
  config.log.wandb = ""

  # The devices, as groups; see skd_jax/parallel/sharding.py. Rows are sharded
  # over data * fsdp groups of `tensor` devices each.
  config.mesh = ml_collections.ConfigDict()
  config.mesh.data = -1  # -1: as many as there are devices for.
  config.mesh.fsdp = 1  # Shards the trained weights as well.
  config.mesh.tensor = 1  # Shards all weights.
  # The last devices, so many, generate while the others train; 0: all do both.
  # With rollout.max_staleness=1; see skd_jax/parallel/rollout_devices.py.
  config.mesh.rollout_devices = 0

  config.data = ml_collections.ConfigDict()
  # embedded (translation), arithmetic (word problems), chains (of sums);
  # parallel, jsonl, parquet, messages, tfds
  config.data.kind = "embedded"
  config.data.dir = ""  # The folder of parallel ... tfds data.
  config.data.name = ""  # tfds: such as wmt16_translate/de-en
  config.data.source_language = "de"
  config.data.target_language = "en"
  # jsonl, parquet, tfds; empty: the language. A name, a.b (b in a), or a|b (the
  # first that a row has). messages: of the conversation; empty: messages.
  config.data.source_field = ""
  config.data.target_field = ""
  # messages: last or all, the turns of the assistant that are responses.
  config.data.turns = "last"
  config.data.num_steps = 5  # chains: H, the steps of a problem
  config.data.min_steps = 0  # chains: H of the shortest; 0 is num_steps.
  config.data.noise = 0.0  # chains: the share of training steps that are wrong
  # Or a part, counted in examples: train[:900], train[-100:].
  config.data.train_split = "train"
  config.data.validation_split = "validation"
  config.data.test_split = "test"
  config.data.max_train_examples = 0  # 0 is all; so are the next two.
  config.data.max_validation_examples = 0
  config.data.max_test_examples = 0
  config.data.prompt = "{source}"  # The user's turn, before the chat template.
  config.data.max_prompt_length = 64  # P, tokens with the chat template
  config.data.max_new_tokens = 64  # T
  # Of validation and test, where a prompt is longer: refuse, or leave_out. In
  # training it is left out.
  config.data.long_prompts = "refuse"
  # Buffers are as wide as the longest row of their batch, rounded up to a
  # multiple of this: the fewer widths, the fewer compilations.
  config.data.length_multiple = 16
  config.data.stop_strings = ()  # Besides EOS; texts, of any tokenisation.
  # Of answers, the main one first; see skd_jax/evaluation/metrics.py.
  config.data.metrics = ("bleu", "chrf")
  config.data.weight = 1.0  # Of the task in a mixture of tasks.

  # Several tasks learned at once, by name: what each changes in config.data, as
  # in {"arithmetic": {"kind": "arithmetic", "metrics": ("accuracy",)}, ...}.
  # Empty: config.data is the only task.
  config.tasks = ml_collections.ConfigDict()
  # A task of n examples is read in proportion to (n * weight)^(1/temperature).
  config.mixing_temperature = 1.0

  config.tokenizer = ml_collections.ConfigDict()
  # A Hugging Face folder. Empty: the teacher's, or where that is made from
  # scratch, a byte-level BPE trained on the training split.
  config.tokenizer.path = ""
  config.tokenizer.vocab_size = 4000
  # What the chat template of the folder reads besides the conversation, such as
  # {"enable_thinking": False} (Qwen3), {"date_string": "26 Jul 2024"} (Llama
  # 3.2). Exports have them as defaults of their template.
  config.tokenizer.template_arguments = ml_collections.ConfigDict()

  config.teacher = model_config()
  # int8, int4: its matrices are held in 8 or 4 bits, half or a quarter of the
  # memory of bfloat16; see skd_jax/models/quantization.py. Empty: in `dtype`.
  # Where it is trained first, that is done in full precision.
  config.teacher.quantization = ""
  config.student = model_config(
    hidden_size=128,
    intermediate_size=384,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
  )
  # The student starts as these layers of the teacher, such as (0, 2); empty:
  # not. Its shape above is then not used.
  config.student.layers_of_teacher = ()
  # Low-rank adapters (LoRA): distillation trains them alone, and the weights of
  # student.path stay as they are, in `dtype`.
  config.student.lora = ml_collections.ConfigDict()
  config.student.lora.rank = 0  # 0: all weights are trained.
  config.student.lora.alpha = 16.0  # A kernel W becomes W + alpha / rank * A B.
  # What has adapters, in every layer; see skd_jax/models/lora.py.
  config.student.lora.targets = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
  )

  config.rollout = ml_collections.ConfigDict()
  # Who generates the responses: skd (the student, corrected by the teacher),
  # on_policy (the student), teacher (SeqKD), reference (supervised KD).
  config.rollout.mode = "skd"
  config.rollout.accept = "top_k"  # See decoding/acceptance.py.
  # top_k: K; bridge: eps in nats; others: a probability, rate or divergence.
  config.rollout.threshold = 25.0
  # constant; or to threshold_end: linear, cosine, geometric, step. With top_k
  # and V, top_p and 1, divergence and log 2, others and 0, the run ends
  # on-policy.
  config.rollout.threshold_schedule = "constant"
  config.rollout.threshold_end = 25.0
  # At token t of a response the threshold is exp(-threshold_decay * t) of that.
  config.rollout.threshold_decay = 0.0
  # N: from a token that it rejects on, the teacher generates so many itself.
  config.rollout.leg_length = 1
  # M: after so many rejections the student goes on alone; 0 is no limit.
  config.rollout.max_interventions = 0
  # Generate and learn the first so many tokens of a response; 0 is all. With a
  # schedule, to first_tokens_end.
  config.rollout.first_tokens = 0
  config.rollout.first_tokens_schedule = "constant"
  config.rollout.first_tokens_end = 0
  # The share of rows whose response is the data set's reference instead, drawn
  # for each row (ImitKD, GKD), with a schedule of its own.
  config.rollout.reference_share = 0.0
  config.rollout.reference_share_schedule = "constant"
  config.rollout.reference_share_end = 0.0
  config.rollout.switch_at = 0.5  # Where `step` jumps, as a share of the run.
  config.rollout.replace = "sample"  # sample, argmax, residual
  # G: changes the speed, not the tokens. 0 measures a few on the first batch
  # and takes the fastest.
  config.rollout.num_draft_tokens = 5
  # Rows that are decoded at once; the others of the batch wait for a free slot.
  # 0 is all. Fewer save time where lengths differ much, and memory.
  config.rollout.batch_size = 0
  # How many updates older than the student the weights may be that generate the
  # responses of a step. 0: none. 1: they are generated while the step before
  # trains; of the modes skd and on_policy; see skd_jax/training/ahead.py.
  config.rollout.max_staleness = 0
  config.rollout.student_temperature = 0.5
  config.rollout.student_top_p = 0.5
  config.rollout.teacher_temperature = 0.2
  config.rollout.teacher_top_p = 0.5

  # What the teacher thinks of the responses is written once, and read in
  # training: teacher and student are never on a device together. Of the modes
  # `reference` and `teacher`; see skd_jax/losses/cached.py.
  config.teacher_cache = ml_collections.ConfigDict()
  config.teacher_cache.top_k = 0  # K, tokens beside the tail; 0: live teacher.
  # Of the mode `teacher`: different responses to a prompt, by turns of epochs.
  config.teacher_cache.num_responses = 1
  # Tasks whose teacher is another one, and its folder, as in {"sums": "gemma"}.
  # One after the other they write, each for its tasks; see docs/methods.md.
  config.teacher_cache.teachers = ml_collections.ConfigDict()
  # Records that are compared with the teacher at each start; 0: none.
  config.teacher_cache.verify_records = 8

  config.loss = ml_collections.ConfigDict()
  # divergence (from the teacher's distribution), or cross_entropy (on the
  # tokens as they are: SFT, SeqKD), which needs no teacher.
  config.loss.objective = "divergence"
  # forward_kl, reverse_kl, jsd, skew_forward_kl, skew_reverse_kl, tvd,
  # top_k_forward_kl; see skd_jax/losses/divergence.py.
  config.loss.divergence = "forward_kl"
  # Of the tokens of the teacher: a divergence, cross_entropy (on that
  # token), cross_entropy_top_1 (on the teacher's most probable one). Empty: the
  # divergence above.
  config.loss.corrections = ""
  config.loss.beta = 0.5  # Of jsd.
  config.loss.alpha = 0.1  # Of skew_forward_kl and skew_reverse_kl.
  config.loss.k = 50  # Of top_k_forward_kl.
  config.loss.weights = "uniform"  # See losses/token_losses.py.
  # Of the weights `verified`: a token in the teacher's top verified_k has
  # weight 1, another unverified_weight.
  config.loss.verified_k = 25
  config.loss.unverified_weight = 0.1
  # Tokens whose logits are held at once: memory against speed, see
  # skd_jax/losses/chunked.py. 0: what suits V and the devices.
  config.loss.chunk_size = 0

  config.distill = fit_config(learning_rate=5e-4, num_steps=500)

  config.evaluate = ml_collections.ConfigDict()
  config.evaluate.batch_size = 64
  # Rollouts shown in report.html, each time, and answers logged as text at a
  # validation, of each task.
  config.evaluate.num_samples = 8
  # For the metric acceptance: how student and teacher draw where one drafts for
  # the other; temperature 0 is greedy.
  config.evaluate.serving_temperature = 1.0
  config.evaluate.serving_top_p = 1.0
  # For the metric comet: the file model.ckpt of a COMET checkpoint, and the
  # Python of an environment that has unbabel-comet. Nothing is downloaded.
  config.evaluate.comet_checkpoint = ""
  config.evaluate.comet_python = ""
  return config.lock()


def task_sections(
  config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.ConfigDict]:
  """Returns the whole data section of each task, by the name of the section.

  Of a single task that is {"data": config.data}; of several, {"tasks.NAME":
  config.data with the task's changes, ...}.

  Raises:
    ValueError: a task has an unusable name or an unknown setting.
  """
  if not config.tasks:
    return {"data": config.data}
  sections = {}
  for name in config.tasks:
    if not name.isidentifier() or name == "mean":
      raise ValueError(
        f"tasks has {name!r}: must be letters, digits and _, and not 'mean'"
      )
    if not isinstance(config.tasks[name], ml_collections.ConfigDict):
      raise ValueError(
        f"tasks.{name} = {config.tasks[name]!r}: must be settings by name"
      )
    section = config.data.copy_and_resolve_references().lock()
    for field, value in config.tasks[name].items():
      allowed = sorted(set(section) - {"length_multiple"})
      if field not in allowed:
        raise ValueError(
          f"tasks.{name}.{field} = {value!r}: must be one of {allowed}"
        )
      try:
        section[field] = value
      except TypeError:
        kind = type(section[field]).__name__
        raise ValueError(
          f"tasks.{name}.{field} = {value!r}: must be of type {kind}"
        ) from None
    sections[f"tasks.{name}"] = section
  return sections


def get(config: ml_collections.ConfigDict, field: str) -> Any:
  """Returns a value by its dotted name, such as "teacher.fit.num_steps"."""
  value: Any = config
  for name in field.split("."):
    value = value[name]
  return value


def to_plain(config: ml_collections.ConfigDict) -> dict:
  """Returns the config as JSON would read it back (tuples are lists)."""
  return json.loads(config.to_json())


def from_plain(plain: dict) -> ml_collections.ConfigDict:
  """Reads what `to_plain` returned.

  Raises:
    TypeError: a setting has another type than its default.
  """
  config = default_config()
  with config.unlocked():  # Tasks and template arguments have names of theirs.
    config.update(plain)
  return config
