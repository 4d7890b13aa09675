"""Folders of NLLB-200 as the Hugging Face hub has them, of any small size."""

import json
import pathlib

import jax
import numpy as np
import safetensors.numpy
import tokenizers
import transformers
from tokenizers import models as tokenizer_models
from tokenizers import pre_tokenizers, trainers

from skd_jax import models
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.reporting import manifest
from tests.toy_models import M2M100, noisy_params

_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
# Of nllb-200-distilled-600M, but for its sizes.
_CONFIG = {
  "activation_dropout": 0.0,
  "activation_function": "relu",
  "architectures": ["M2M100ForConditionalGeneration"],
  "attention_dropout": 0.1,
  "bos_token_id": 0,
  "decoder_layerdrop": 0,
  "decoder_start_token_id": 2,
  "dropout": 0.1,
  "encoder_layerdrop": 0,
  "eos_token_id": 2,
  "init_std": 0.02,
  "is_encoder_decoder": True,
  "max_length": 200,
  "max_position_embeddings": 1024,
  "model_type": "m2m_100",
  "pad_token_id": 1,
  "scale_embedding": True,
  "tokenizer_class": "NllbTokenizer",
  "torch_dtype": "float32",
  "transformers_version": "4.21.0.dev0",
  "use_cache": True,
}


def train_nllb_tokenizer(texts, vocab_size=600):
  """Trains one whose vocabulary and merges are of some texts."""
  bpe = tokenizers.Tokenizer(tokenizer_models.BPE(unk_token="<unk>"))
  bpe.pre_tokenizer = pre_tokenizers.Metaspace()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size, special_tokens=_SPECIAL_TOKENS, show_progress=False
  )
  bpe.train_from_iterator(texts, trainer)
  trained = json.loads(bpe.to_str())["model"]
  merges = [tuple(pair) for pair in trained["merges"]]
  return transformers.NllbTokenizer(vocab=trained["vocab"], merges=merges)


def weights(config: models.EncoderDecoderConfig, seed: int):
  """Returns random weights, biases around 0."""
  params = noisy_params(config, seed, scale=0.4)
  return jax.tree.map_with_path(
    lambda path, x: x - 1 if path[-1].key == "bias" else x, params
  )


def write_nllb(
  folder: pathlib.Path, tokenizer, *, seed: int, **sizes
) -> models.EncoderDecoderConfig:
  """Writes a model with random weights, and its tokenizer.

  Args:
    folder: where the files go.
    tokenizer: of train_nllb_tokenizer.
    seed: of the weights.
    **sizes: fields of EncoderDecoderConfig.
  """
  # The head has two rows more than there are tokens, as that of NLLB.
  rows = tokenizer_lib.num_ids(tokenizer) + 2
  fields = vars(M2M100) | {"vocab_size": rows} | sizes
  config = models.EncoderDecoderConfig(**fields)
  params = weights(config, seed)
  models.save(folder, config, params, write_more=tokenizer.save_pretrained)
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  copies = ("model.encoder.embed_tokens", "model.decoder.embed_tokens")
  for name in (*copies, "lm_head"):
    tensors[f"{name}.weight"] = tensors["model.shared.weight"]
  table = np.zeros((1026, config.hidden_size), np.float32)
  tensors["model.encoder.embed_positions.weights"] = table
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
  layers = config.num_encoder_layers
  sizes = {
    "d_model": config.hidden_size,
    "encoder_layers": layers,
    "num_hidden_layers": layers,
    "decoder_layers": config.num_layers,
    "vocab_size": rows,
    **{
      f"{part}_{key}": value
      for part in ("encoder", "decoder")
      for key, value in (
        ("ffn_dim", config.intermediate_size),
        ("attention_heads", config.num_heads),
      )
    },
  }
  text = json.dumps(_CONFIG | sizes)
  (folder / "config.json").write_text(text, encoding="utf-8")
  (folder / manifest.NAME).unlink()
  return config
