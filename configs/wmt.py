"""German to English.

python -m skd_jax.main --config=configs/wmt.py            the demo
python -m skd_jax.main --config=configs/wmt.py:multi30k   real data
"""

import ml_collections

from skd_jax.config import default_config, fit_config


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {
    "demo": demo,
    "embedded_compare": embedded_compare,
    "multi30k": multi30k,
    "multi30k_base": multi30k_base,
    "multi30k_compare": multi30k_compare,
    "gemma": gemma,
    "gemma2": gemma2,
    "qwen": qwen,
    "qwen3": qwen3,
    "llama": llama,
  }
  if variant not in variants:
    raise ValueError(
      f"configs/wmt.py:{variant}: the variant must be one of {list(variants)}"
    )
  return variants[variant]()


def demo() -> ml_collections.ConfigDict:
  """The embedded corpus; no download, no accelerator.

  python -m skd_jax.main --config=configs/wmt.py

  2 CPU cores: 9 min 7 s (teacher 152 s, student start 56 s, distillation 138 s,
  the baseline 65 s, scores 42 s, the rest data and compilation). 500 held-out
  sentences, greedy; 38.7 % of the tokens were replaced, at first 51 %:

                                  bleu   chrf
    teacher                      37.96  52.52
    student, start               17.56  33.59
    student, distilled           27.41  43.06
    student, by on-policy KD     25.05  41.44

  SKD with K = 25 is level with on-policy KD here: 23.68 and 23.57 BLEU after
  250 steps, 400 sentences.
  """
  config = embedded()
  config.task = "embedded German to English"
  config.baselines = ("on_policy_kd",)
  config.teacher.fit.num_steps = 1200
  config.student.fit.num_steps = 1000
  # The teacher corrects what it gives less than this probability, at the end of
  # the run nothing: the method prob_floor_to_zero.
  config.rollout.update(
    accept="prob_floor",
    threshold=0.5,
    threshold_end=0.0,
    threshold_schedule="linear",
  )
  config.distill.update(num_steps=300, learning_rate=4e-3)
  return config


def embedded() -> ml_collections.ConfigDict:
  """The embedded corpus with a pair that 2 CPU cores train in minutes."""
  config = default_config()
  config.data.max_validation_examples = 256
  config.data.max_test_examples = 500
  config.data.max_prompt_length = 48
  config.data.max_new_tokens = 48
  config.data.length_multiple = 24
  config.tokenizer.vocab_size = 3000
  config.teacher.update(
    hidden_size=128,
    intermediate_size=384,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
  )
  config.teacher.fit = fit_config(
    num_steps=1700,
    batch_size=16,
    learning_rate=4e-3,
    warmup_steps=100,
    decay="cosine",
  )
  config.student.update(
    hidden_size=64,
    intermediate_size=192,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
  )
  config.student.fit = fit_config(
    num_steps=700,
    batch_size=16,
    learning_rate=4e-3,
    warmup_steps=100,
    decay="cosine",
  )
  # The nucleus is the most expensive part of a draw on a CPU, and at this
  # temperature it changes little.
  config.rollout.student_top_p = 1.0
  config.loss.chunk_size = 128
  config.distill = fit_config(num_steps=220, batch_size=32, learning_rate=2e-3)
  return config


def embedded_compare() -> ml_collections.ConfigDict:
  """The demo's data, a longer teacher and a shorter start, for the ablations.

  python -m skd_jax.compare --grid=threshold_k --seeds=3 \\
    --config=configs/wmt.py:embedded_compare --workdir=workdir/embedded_compare

  2 CPU cores, shared with other work: 4 minutes for teacher and start, then 30
  to 120 seconds a run with scores and compilation. The grid threshold_k, 500
  sentences, greedy, 3 seeds; all grids are in docs/results/quality.md:

                         bleu   chrf
    teacher             51.58  64.27
    student, start       4.69  20.39
    supervised_kd        7.41  23.17
    on_policy_kd         6.44  21.67
    skd                  6.41  21.34
    skd, K = 1           7.50  22.95
  """
  config = embedded()
  config.task = "embedded German to English, ablations"
  config.seeds = (0, 1, 2)
  config.data.max_validation_examples = 128
  config.distill.update(num_steps=120, evaluate_every_steps=40)
  return config


def multi30k() -> ml_collections.ConfigDict:
  """WMT16 multimodal task 1; --config.data.dir is its folder.

  python -m skd_jax.main --config=configs/wmt.py:multi30k \\
    --config.data.dir=FOLDER --workdir=workdir/multi30k

  2 CPU cores, shared with other work: 63 min in all (teacher 38, student start
  6, rollouts 10, distillation steps 8, scores 1). test_2016_flickr, greedy,
  sacrebleu 2.6.0, one seed; 4.3 % of the tokens were replaced:

                         bleu   chrf
    teacher             34.75  54.08
    student, start      32.28  51.16
    student, distilled  34.86  53.40
  """
  config = default_config()
  config.task = "Multi30k German to English"
  config.data.kind = "parallel"
  config.data.validation_split = "val"
  config.data.test_split = "test_2016_flickr"
  config.data.max_validation_examples = 256
  config.data.length_multiple = 8
  config.tokenizer.vocab_size = 4000
  config.teacher.update(
    hidden_size=192,
    intermediate_size=576,
    num_layers=3,
    num_heads=6,
    num_kv_heads=3,
  )
  config.teacher.fit = fit_config(
    num_steps=6500,
    batch_size=32,
    learning_rate=2e-3,
    warmup_steps=400,
    decay="cosine",
    checkpoint_every_steps=500,
    evaluate_every_steps=1300,
  )
  config.student.update(
    hidden_size=96,
    intermediate_size=256,
    num_layers=2,
    num_heads=3,
    num_kv_heads=3,
  )
  config.student.fit = fit_config(
    num_steps=3000,
    batch_size=32,
    learning_rate=3e-3,
    warmup_steps=300,
    decay="cosine",
    checkpoint_every_steps=500,
    evaluate_every_steps=1000,
  )
  config.distill = fit_config(
    num_steps=1500,
    batch_size=64,
    learning_rate=1e-3,
    evaluate_every_steps=300,
  )
  return config


def multi30k_compare() -> ml_collections.ConfigDict:
  """Every method from one ready teacher.

  python -m skd_jax.compare \\
    --config=configs/wmt.py:multi30k_compare \\
    --config.data.dir=FOLDER --config.teacher.path=HF_FOLDER \\
    --grid=methods --seeds=3 --workdir=workdir/multi30k_compare

  2 CPU cores, shared with other work: a run takes 2 to 5 minutes with scores
  and compilation, the 19 methods of that time with 3 seeds each about 2 hours
  and a half; the grid has more today.
  The student's start is trained once, for 4 minutes. test_2016_flickr, greedy,
  sacrebleu 2.6.0, 3 seeds; more in docs/results/quality.md:

                         bleu   chrf
    teacher             33.44  53.44
    student, start      24.08  41.92
    supervised_kd       24.87  43.04
    on_policy_kd        24.68  43.37
    skd                 24.95  43.47
    random              25.10  43.68
    teacher_confidence  25.28  43.80

  The learning rate is the best of 3e-4, 1e-3 and 3e-3 by the last validation
  score of on-policy KD (--grid=learning_rate --seeds=1, 160 steps).
  """
  config = multi30k()
  config.task = "Multi30k German to English"
  config.data.length_multiple = 16
  config.data.max_new_tokens = 48
  config.student.fit.update(num_steps=1500, warmup_steps=150)
  config.distill.update(num_steps=240, batch_size=32, evaluate_every_steps=30)
  return config


def multi30k_base() -> ml_collections.ConfigDict:
  """The same data with a larger pair, for one GPU; not run yet.

  python -m skd_jax.main --config=configs/wmt.py:multi30k_base \\
    --config.data.dir=FOLDER
  """
  config = multi30k()
  config.task = "Multi30k German to English, base"
  config.tokenizer.vocab_size = 8000
  config.teacher.update(
    hidden_size=512,
    intermediate_size=1536,
    num_layers=6,
    num_heads=8,
    num_kv_heads=8,
    head_dim=64,
  )
  config.teacher.fit.update(num_steps=4000, batch_size=128, learning_rate=7e-4)
  config.student.update(
    hidden_size=192,
    intermediate_size=576,
    num_layers=3,
    num_heads=6,
    num_kv_heads=3,
  )
  config.student.fit.update(num_steps=2000, batch_size=128, learning_rate=2e-3)
  config.distill.update(num_steps=2000, batch_size=128)
  return config


def gemma() -> ml_collections.ConfigDict:
  """The setting of the paper: Gemma 7B-it to 2B-it; not run yet.

  python -m skd_jax.main --config=configs/wmt.py:gemma \\
    --config.teacher.path=FOLDER_OF_A_FINE_TUNED_gemma-7b-it \\
    --config.student.init_path=FOLDER_OF_gemma-2b-it

  The paper fine-tunes the teacher on the task first. That is this command with
  teacher.init_path in place of teacher.path; by arithmetic it needs 8.5e9 x 16
  bytes = 137 GB, more than eight chips of v5e have.

  v5e:2x4 (v5litepod-8): 8.7 GiB per chip, 0.54 s a step
  v5p:2x2x1 (v5p-8), --config.mesh.tensor=4: 16.6 GiB per chip, 0.33 s a step

  Memory as the TPU compiler has it for rollout and training, the teacher ready;
  seconds are a bound by roofline, if every response has 256 tokens, of which
  one in ten is replaced (benchmarks/tpu/plan.py). So for the configs below.

  One chip, --config.mesh.tensor=1 --config.teacher.quantization=int8
  --config.student.lora.rank=16, 4 rows on one v5e: 14.2 of 15.8 GiB, 2.9 s;
  16 rows in 4 microbatches on one L4 of 24 GB: 17.9 of 21.4 GiB
  (benchmarks/gpu/plan.py).
  """
  return _translation("Gemma 7B-it to 2B-it")


def gemma2() -> ml_collections.ConfigDict:
  """Gemma 2 9B-it to 2B-it; not run yet.

  v5e:2x4 (v5litepod-8): 12.1 GiB per chip, 0.76 s a step
  """
  return _translation("Gemma 2 9B-it to 2B-it")


def qwen() -> ml_collections.ConfigDict:
  """The second pair of the paper: Qwen2 7B to 0.5B; not run yet.

  v5e:2x2 (v5litepod-4): 7.5 GiB per chip, 0.47 s a step

  One v5e, as for Gemma's pair, with 8 rows: 9.6 of 15.8 GiB, 1.2 s.
  """
  return _translation("Qwen2 7B to 0.5B")


def qwen3() -> ml_collections.ConfigDict:
  """Qwen3 8B to 0.6B; not run yet.

  v5e:2x2 (v5litepod-4): 8.2 GiB per chip, 0.52 s a step
  """
  config = _translation("Qwen3 8B to 0.6B")
  # The empty block of thoughts is then part of the prompt, not of the answer.
  config.tokenizer.template_arguments = {"enable_thinking": False}
  return config


def llama() -> ml_collections.ConfigDict:
  """Llama 3.1 8B-Instruct to 3.2 1B-Instruct; not run yet.

  v5e:2x2 (v5litepod-4): 10.2 GiB per chip, 0.64 s a step
  """
  return _translation("Llama 3.1 8B to 3.2 1B")


def _translation(pair: str) -> ml_collections.ConfigDict:
  """The recipe of the paper for translation, on WMT16 from TFDS."""
  # Here, so that the demo can be run from a copy of this file alone.
  from configs import _paper

  config = _paper.recipe(pair, num_steps=1250)  # 10 epochs
  config.task = f"{pair}, WMT16 German to English"
  config.data.kind = "tfds"
  config.data.name = "wmt16_translate/de-en"
  config.data.prompt = (
    "Translate German sentence into English. This is the German sentence: "
    "{source} Here is the English translation:"
  )
  config.data.max_prompt_length = 256
  config.data.max_new_tokens = 256
  config.data.stop_strings = ("\n",)
  return config
