"""The other implementations: transformers' generate, and TRL's GKD trainer.

They run the same weights: ours are exported to a Hugging Face folder, which
they load. torch, transformers and trl come with `pip install -e .[peers]`.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from benchmarks.speed.pair import Pair
from skd_jax import models
from skd_jax.models.loading import LoadedModel

TRANSFORMERS = ("torch",)
GKD = ("torch", "trl", "datasets", "accelerate")


def missing(needed: tuple[str, ...]) -> str | None:
  """Says which package of a peer is missing, or returns None."""
  for name in needed:
    if importlib.util.find_spec(name) is None:
      return f"{name} {harness.NOT_INSTALLED}"
  return None


def to_torch(loaded: LoadedModel) -> Any:
  """Returns the same model in transformers, on the device JAX uses.

  It has the same dtype, is in evaluation mode, and no token stops it.
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
  """Generates int [B, T] greedily, the cheapest way to choose a token.

  Args:
    model: from to_torch.
    prompts: int32 [B, P], without padding.
    max_new_tokens: T.
    assistant: a model that drafts (assisted generation); B must be 1.
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
  assert output.shape[1] == ids.shape[1] + max_new_tokens
  return output[:, ids.shape[1] :].cpu().numpy()


# How long the drafts of an assistant are: what its generation_config has.
DEFAULT_DRAFTS: dict[str, Any] = {}


def constant_drafts(num_draft_tokens: int) -> dict[str, Any]:
  """Returns drafts of G tokens, however sure the assistant is of them."""
  return {
    "num_assistant_tokens": num_draft_tokens,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.0,
  }


def generate_answers(
  model: Any,
  batches: Sequence[Sequence[np.ndarray]],
  max_new_tokens: int,
  eos_ids: Sequence[int] = (),
  *,
  draft: Mapping[str, Any] | None = None,
  **options: Any,
) -> list[list[int]]:
  """Generates answers greedily, a batch after the other.

  Args:
    model: from to_torch.
    batches: the prompts of each, int ids of any lengths.
    max_new_tokens: the most tokens of an answer.
    eos_ids: that end an answer, and are its last token.
    draft: of the assistant's generation_config, in place of its defaults.
    **options: of `generate`, such as assistant_model (B must be 1).
  """
  import torch
  import transformers

  if draft is not None:
    of_assistant = options["assistant_model"].generation_config
    usual = transformers.GenerationConfig()
    for name in constant_drafts(1):
      setattr(of_assistant, name, draft.get(name, getattr(usual, name)))
  answers = []
  for rows in batches:
    size = max(map(len, rows))
    # Padded on the left, where what follows does not see it.
    ids = np.stack([np.pad(row, (size - len(row), 0)) for row in rows])
    mask = np.stack([np.arange(size) >= size - len(row) for row in rows])
    with torch.inference_mode():
      output = model.generate(
        torch.tensor(ids, dtype=torch.long, device=model.device),
        attention_mask=torch.tensor(
          mask, dtype=torch.long, device=model.device
        ),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(eos_ids) or None,
        **options,
      )
    for row in output[:, size:].cpu().tolist():
      ends = [at for at, token in enumerate(row) if token in eos_ids]
      answers.append(row[: ends[0] + 1] if ends else row)
  return answers


def make_gkd_step(
  pair: Pair, prompts: jax.Array, new_tokens: int
) -> tuple[Any, Callable[[], None]]:
  """Returns TRL's GKDTrainer, on-policy with the forward KL, and its step.

  The trainer owns its loop. A step here does what the loop does: the trainer's
  training_step (generation, both models, backward pass), gradient clipping and
  the trainer's optimizer.

  Args:
    pair: the models; the student is trained in the pair's dtype.
    prompts: int32 [B, P], the batch of every step.
    new_tokens: T, generated for every row.
  """
  import torch

  trainer = _make_trainer(pair, new_tokens)
  trainer.create_optimizer_and_scheduler(num_training_steps=1000)
  trainer.current_gradient_accumulation_steps = 1  # The loop would set it.
  model, optimizer = trainer.accelerator.prepare(
    trainer.model, trainer.optimizer
  )
  ids = torch.tensor(np.asarray(prompts), dtype=torch.long)
  mask = torch.ones_like(ids)
  inputs = {"prompts": ids, "prompt_attention_mask": mask}
  # Replaced by the responses of the student.
  inputs |= {"input_ids": ids, "attention_mask": mask, "labels": ids}

  def step() -> None:
    trainer.training_step(model, dict(inputs))
    trainer.accelerator.clip_grad_norm_(
      model.parameters(), trainer.args.max_grad_norm
    )
    optimizer.step()
    trainer.lr_scheduler.step()
    model.zero_grad()

  return trainer, step


def _make_trainer(pair: Pair, new_tokens: int) -> Any:
  import datasets
  from trl.experimental import gkd

  on_cpu = jax.default_backend() == "cpu"
  args = gkd.GKDConfig(
    output_dir=tempfile.gettempdir(),  # Nothing is saved.
    max_new_tokens=new_tokens,
    lmbda=1.0,  # All data is on-policy.
    beta=0.0,  # KL(teacher || student).
    temperature=1.0,
    learning_rate=1e-5,
    # TRL's default generates without a cache: the worst case, not the usual.
    gradient_checkpointing=False,
    use_cpu=on_cpu,
    bf16=not on_cpu,
    save_strategy="no",
    logging_strategy="no",
    report_to="none",
    disable_tqdm=True,
  )

  class FullLength(gkd.GKDTrainer):
    """Checks that every response has the length that ours have."""

    @staticmethod
    def generate_on_policy_outputs(model, inputs, generation_config):
      ids, mask, labels = gkd.GKDTrainer.generate_on_policy_outputs(
        model, inputs, generation_config
      )
      assert ids.shape[1] == inputs["prompts"].shape[1] + new_tokens
      assert bool(mask.all())
      return ids, mask, labels

  return FullLength(
    model=to_torch(pair.student),
    teacher_model=to_torch(pair.teacher),
    args=args,
    data_collator=lambda examples: examples,  # Batches are made by hand.
    train_dataset=datasets.Dataset.from_dict({"ids": [[0]]}),
    processing_class=_dummy_tokenizer(),
  )


def _dummy_tokenizer() -> Any:
  """The trainer insists on a tokenizer, but reads only its padding id."""
  import tokenizers
  import transformers

  words = tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(words),
    pad_token="<pad>",
    eos_token="<eos>",
  )
