"""Exported folders of every family, as other programs read them.

transformers is asked itself, in a process of its own: by default the version
installed here, or that of another Python. With version 4:

  python -m venv v4 && v4/bin/pip install 'transformers==4.57.*'
  READER_PYTHON=v4/bin/python pytest -n0 tests/models/test_readers.py

llama.cpp and vLLM are not: for these, the keys that they read are named.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import safetensors

from skd_jax import models
from skd_jax.data import tokenizer as tokenizer_lib
from tests.models.test_huggingface import FAMILIES, SIZES

pytestmark = pytest.mark.slow  # transformers takes its time.

_SCRIPT = pathlib.Path(__file__).with_name("read_folders.py")
_VOCAB_SIZE = 264

# What llama.cpp takes from config.json: TextModel of conversion/base.py, and
# the classes of conversion/{llama,qwen,gemma}.py that are registered for these
# architectures.
_OF_LLAMA_CPP = {
  "max_position_embeddings",
  "hidden_size",
  "intermediate_size",
  "num_attention_heads",
  "num_hidden_layers",
  "num_key_value_heads",
  "head_dim",
  "rms_norm_eps",
  "rope_parameters",
  "vocab_size",
}
_OF_LLAMA_CPP_GEMMA2 = {
  "attn_logit_softcapping",
  "final_logit_softcapping",
  "sliding_window",
}
# What vLLM asks the config of transformers 5 for:
# transformers_utils/model_arch_config_convertor.py and
# model_executor/models/{llama,mixtral,qwen2,qwen3,qwen3_moe,gemma,gemma2,
# gemma3}.py.
_OF_VLLM = {
  "architectures",
  "dtype",
  "head_dim",
  "hidden_size",
  "intermediate_size",
  "max_position_embeddings",
  "num_attention_heads",
  "num_hidden_layers",
  "num_key_value_heads",
  "rms_norm_eps",
  "rope_parameters",
  "tie_word_embeddings",
  "vocab_size",
}
_OF_VLLM_BY_TYPE = {
  "llama": {"attention_bias", "hidden_act", "mlp_bias"},
  "mistral": {"hidden_act", "sliding_window"},
  "mixtral": {"num_experts_per_tok", "num_local_experts", "sliding_window"},
  "qwen2": {"hidden_act", "layer_types", "sliding_window"},
  "qwen3": {"attention_bias", "hidden_act", "layer_types", "sliding_window"},
  # Asked for num_experts, transformers 5 answers with num_local_experts.
  "qwen3_moe": {
    "attention_bias",
    "decoder_sparse_step",
    "hidden_act",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts_per_tok",
    "num_local_experts",
  },
  "gemma": {"attention_bias", "hidden_act", "hidden_activation"},
  # Both activations, and the same: Gemma2MLP.
  "gemma2": {
    "attention_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_act",
    "hidden_activation",
    "layer_types",
    "query_pre_attn_scalar",
    "sliding_window",
  },
  "gemma3_text": {
    "attention_bias",
    "final_logit_softcapping",
    "hidden_activation",
    "layer_types",
    "query_pre_attn_scalar",
    "sliding_window",
  },
}
# Its names of sizes.
_OF_GPT2 = {
  "hidden_size": "n_embd",
  "num_attention_heads": "n_head",
  "num_hidden_layers": "n_layer",
}
# What llama.cpp calls by another name.
_OF_GGUF = {
  "gemma3_text": "gemma3",
  "mistral": "llama",
  "mixtral": "llama",
  "qwen3_moe": "qwen3moe",
}
# The families whose readers there were looked up.
_LOOKED_UP = [
  name
  for name, (model_type, _) in FAMILIES.items()
  if model_type in _OF_VLLM_BY_TYPE
]


@dataclasses.dataclass(frozen=True)
class Exported:
  """A folder, and what was written to it."""

  folder: pathlib.Path
  config: models.ModelConfig
  tokenizer: object

  def json(self, name="config.json"):
    return json.loads((self.folder / name).read_text("utf-8"))


def _tokenizer(folder, model_type):
  """A tokenizer of the class that transformers chooses for a family.

  Of qwen2 it takes no other, whatever the folder says.
  """
  tokenizer_lib.train_bpe(["a b c"] * 9, _VOCAB_SIZE, folder)
  (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
  return tokenizer_lib.load_tokenizer(folder)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
  """An export of each family, whose weights are zero."""
  base = tmp_path_factory.mktemp("exports")
  exported = {}
  for name, (model_type, changes) in FAMILIES.items():
    sizes = {**SIZES, **changes, "vocab_size": _VOCAB_SIZE}
    if model_type == "gpt2":
      sizes = {_OF_GPT2.get(key, key): size for key, size in sizes.items()}
    config = models.model_config_from_hf({"model_type": model_type, **sizes})
    shapes = models.param_shapes(config)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    loaded = models.LoadedModel(config, models.create(config), params)
    tokenizer = _tokenizer(base / f"tokenizer_of_{model_type}", model_type)
    models.save_model(base / name, loaded, tokenizer, eos_ids=(2, 3))
    exported[name] = Exported(base / name, config, tokenizer)
  return exported


@pytest.fixture(scope="module")
def readings(exports):
  """(major version, what transformers reads in the folder of each family)."""
  result = subprocess.run(
    [
      os.environ.get("READER_PYTHON", sys.executable),
      str(_SCRIPT),
      *(str(one.folder) for one in exports.values()),
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout)
  by_name = {n: found["folders"][str(e.folder)] for n, e in exports.items()}
  return int(found["version"].split(".")[0]), by_name


def _ropes(config, major):
  """The rotary embeddings, as [of all or full layers, of windowed layers]."""
  if major >= 5:
    parameters = config["rope_parameters"]
    if "full_attention" in parameters:
      return [parameters["full_attention"], parameters["sliding_attention"]]
    return [parameters]
  scaling = config["rope_scaling"] or {"rope_type": "default"}
  ropes = [{**scaling, "rope_theta": config["rope_theta"]}]
  if "rope_local_base_freq" in config:
    theta = config["rope_local_base_freq"]
    ropes.append({"rope_type": "default", "rope_theta": theta})
  return ropes


# Phi has other keys for them, which the next test reads, and GPT-2 has none.
@pytest.mark.parametrize(
  "name",
  [name for name in FAMILIES if name[:4] not in ("phi3", "phi4", "gpt2")],
)
def test_transformers_reads_the_rotary_embeddings_that_were_written(
  exports, readings, name
):
  major, found = readings
  config = exports[name].config
  wanted = [config.rope, *([config.local_rope] if config.local_rope else [])]
  ropes = _ropes(found[name]["config"], major)
  assert [models.RopeConfig(**rope) for rope in ropes] == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_shape_that_was_written(exports, readings, name):
  major, found = readings
  config, written = exports[name].config, exports[name].json()
  if major >= 5 and "num_experts" in written:
    written["num_local_experts"] = written.pop("num_experts")
  assert models.model_config_from_hf(found[name]["config"]) == config
  assert found[name]["config"]["dtype"] == "float32"
  for key, value in written.items():
    if not key.startswith("rope"):
      assert found[name]["config"][key] == value, key


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_what_ends_a_response_and_the_chat_template(
  exports, readings, name
):
  _, found = readings
  tokenizer, read = exports[name].tokenizer, found[name]
  assert read["eos"] == read["config"]["eos_token_id"] == [2, 3]
  assert read["eos_of_tokenizer"] == tokenizer.eos_token_id
  assert read["special"] == sorted(tokenizer.all_special_ids)
  assert read["special"][:4] == [0, 1, 2, 3]  # <sep> is one of them.
  turns = [{"role": "user", "content": "a b"}]
  assert read["prompt"] == tokenizer.apply_chat_template(turns, tokenize=False)
  expected = tokenizer("a b c", add_special_tokens=False)["input_ids"]
  assert read["ids"] == expected


@pytest.mark.parametrize("name", _LOOKED_UP)
def test_llama_cpp_finds_the_keys_that_it_reads(exports, readings, name):
  # It asks AutoConfig, and config.json itself where that fails.
  for config in (exports[name].json(), readings[1][name]["config"]):
    assert config.keys() >= _OF_LLAMA_CPP - (
      {"rope_parameters"} if readings[0] < 5 else set()
    )
    if config["model_type"].startswith("gemma2"):
      assert config.keys() >= _OF_LLAMA_CPP_GEMMA2
    if config["model_type"].startswith("gemma3"):
      assert config["sliding_window"]
      assert config.get("attn_logit_softcapping") is None


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_knows_the_tensors_and_the_special_tokens(exports, name):
  gguf = pytest.importorskip("gguf", reason="needs gguf of llama.cpp")
  exported = exports[name]
  if exported.config.dense_layers:
    pytest.skip("llama.cpp knows no dense layers beside those with experts")
  (architecture,) = (
    key
    for key, value in gguf.MODEL_ARCH_NAMES.items()
    if value
    == _OF_GGUF.get(exported.config.model_type, exported.config.model_type)
  )
  known = gguf.get_tensor_name_map(architecture, exported.config.num_layers)
  path = exported.folder / "model.safetensors"
  with safetensors.safe_open(path, framework="numpy") as file:
    for tensor in file.keys():  # noqa: SIM118 - no mapping.
      # It puts the experts of a layer into one tensor before it asks.
      merged = re.sub(r"experts\.\d+\.", "experts.", tensor)
      assert known.get_name(merged, (".weight", ".bias")), tensor
  special = gguf.SpecialVocab(exported.folder)
  assert special.special_token_ids["eos"] == exported.tokenizer.eos_token_id
  assert special.chat_template == exported.tokenizer.chat_template


@pytest.mark.parametrize("name", _LOOKED_UP)
def test_vllm_finds_the_keys_that_it_reads(exports, readings, name):
  major, found = readings
  if major < 5:
    pytest.skip("vLLM needs transformers 5")
  config, model_type = found[name]["config"], exports[name].config.model_type
  assert config.keys() >= _OF_VLLM | _OF_VLLM_BY_TYPE[model_type]
  if model_type == "gemma2":
    assert config["hidden_act"] == config["hidden_activation"]
  # An older form is refused where the two differ.
  assert all("type" not in rope for rope in _ropes(config, major))
