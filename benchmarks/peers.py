"""The other implementations: transformers' generate, and TRL's GKD trainer.

They run the same weights: ours are exported to a Hugging Face folder, which
they load. torch, transformers and trl come with `pip install -e .[peers]`.
"""

import importlib.util
import tempfile
from typing import Any

import jax
import numpy as np

from skd_jax import models
from skd_jax.models.loading import LoadedModel


def has_torch() -> bool:
  """Whether transformers can run models here."""
  return importlib.util.find_spec("torch") is not None


def to_torch(loaded: LoadedModel) -> Any:
  """Exports a model and loads it into transformers, on the device we run on.

  Args:
    loaded: the model; its dtype is kept.

  Returns:
    A transformers model in evaluation mode, that no token stops.
  """
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  dtype = str(loaded.params["embedding"].dtype)
  with tempfile.TemporaryDirectory() as folder:
    models.save(folder, loaded.config, loaded.params, dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=getattr(torch, dtype)
    )
  on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
  model = model.to("cuda" if on_gpu else "cpu").eval()
  model.generation_config.eos_token_id = None
  model.generation_config.pad_token_id = 0
  return model


def generate(
  model: Any,
  prompts: jax.Array,
  max_new_tokens: int,
  assistant: Any | None = None,
) -> np.ndarray:
  """Generates greedily, the cheapest way of transformers to choose a token.

  Args:
    model: from to_torch.
    prompts: int32 [B, P], without padding.
    max_new_tokens: T; exactly so many are written.
    assistant: a model that drafts (assisted generation); B must be 1.

  Returns:
    int [B, T].
  """
  import torch

  ids = torch.tensor(np.asarray(prompts), dtype=torch.long, device=model.device)
  with torch.inference_mode():
    output = model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=max_new_tokens,
      do_sample=False,
      assistant_model=assistant,
    )
  written = output[:, ids.shape[1] :].cpu().numpy()
  if written.shape[1] != max_new_tokens:
    raise RuntimeError(
      f"transformers wrote {written.shape[1]} tokens, not {max_new_tokens}"
    )
  return written
