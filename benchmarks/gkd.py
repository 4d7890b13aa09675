"""TRL's GKD trainer, one step at a time.

The trainer owns its loop, so it runs in a thread that waits before each step
until it is asked for one: then its steps can be timed in turns with ours.
"""

import importlib.util
import tempfile
import threading
from typing import Any

import jax
import numpy as np

from benchmarks import harness, peers
from benchmarks.pair import Pair

_NEEDED = ("torch", "trl", "datasets", "accelerate")


def missing() -> str | None:
  """Says which package is missing, or returns None."""
  for name in _NEEDED:
    if importlib.util.find_spec(name) is None:
      return f"{name} {harness.NOT_INSTALLED}"
  return None


class _ClosedError(Exception):
  """Ends the trainer's thread before its last step."""


class SteppedTrainer:
  """A GKDTrainer, on-policy with the forward KL, that steps when asked to.

  Use it as a context: leaving it ends the trainer's thread.
  """

  def __init__(
    self, pair: Pair, prompts: jax.Array, new_tokens: int, num_steps: int
  ) -> None:
    """Exports the pair and starts the trainer, which waits.

    Args:
      pair: the models; the student is trained in the pair's dtype.
      prompts: int32 [B, P], the batch of every step.
      new_tokens: T, written by every row.
      num_steps: how often `step` may be called.
    """
    self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
    self._error: BaseException | None = None
    self._closing = False
    self._thread = threading.Thread(
      target=self._run,
      args=(pair, np.asarray(prompts), new_tokens, num_steps),
      daemon=True,
    )
    self._thread.start()
    self._await()  # Built, and at the start of the first step.

  def __enter__(self) -> "SteppedTrainer":
    return self

  def __exit__(self, *_: object) -> None:
    self._closing = True
    self._go.release()
    self._thread.join()

  def step(self) -> None:
    """Takes one training step.

    Raises:
      RuntimeError: the trainer failed.
    """
    self._go.release()
    self._await()

  def _await(self) -> None:
    self._done.acquire()
    if self._error is not None:
      raise RuntimeError(
        f"TRL's trainer failed: {self._error}"
      ) from self._error

  def _run(self, *arguments: Any) -> None:
    import transformers

    try:
      with tempfile.TemporaryDirectory() as folder:
        trainer = _make_trainer(*arguments, folder=folder)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(_make_gate(self))
        trainer.train()
    except BaseException as error:
      self._error = error
    self._done.release()


def _make_gate(stepped: SteppedTrainer) -> Any:
  import transformers

  class Gate(transformers.TrainerCallback):
    """Holds the trainer at the start of each step."""

    def on_step_begin(self, args, state, control, **kwargs):
      stepped._done.release()
      stepped._go.acquire()
      if stepped._closing:
        raise _ClosedError

  return Gate()


def _make_trainer(
  pair: Pair,
  prompts: np.ndarray,
  new_tokens: int,
  num_steps: int,
  *,
  folder: str,
) -> Any:
  import datasets
  from trl.experimental import gkd

  on_cpu = jax.default_backend() == "cpu"
  student = peers.to_torch(pair.student)
  args = gkd.GKDConfig(
    output_dir=folder,
    per_device_train_batch_size=len(prompts),
    max_steps=num_steps,
    max_new_tokens=new_tokens,
    lmbda=1.0,  # All data is on-policy.
    beta=0.0,  # KL(teacher || student).
    temperature=1.0,
    learning_rate=1e-5,
    # Its default would write without a cache: the worst case, not the usual.
    gradient_checkpointing=False,
    use_cpu=on_cpu,
    bf16=not on_cpu,
    save_strategy="no",
    logging_strategy="no",
    report_to="none",
    disable_tqdm=True,
    dataloader_pin_memory=False,
  )

  class FullLength(gkd.GKDTrainer):
    """Makes sure that every response has the length that ours have."""

    @staticmethod
    def generate_on_policy_outputs(model, inputs, generation_config):
      ids, mask, labels = gkd.GKDTrainer.generate_on_policy_outputs(
        model, inputs, generation_config
      )
      written = mask[:, prompts.shape[1] :]
      if written.shape[1] != new_tokens or not bool(written.all()):
        raise RuntimeError(f"not all rows have {new_tokens} new tokens")
      return ids, mask, labels

  return FullLength(
    model=student,
    teacher_model=peers.to_torch(pair.teacher),
    args=args,
    data_collator=_collate,
    train_dataset=datasets.Dataset.from_dict(
      {"ids": prompts.tolist() * num_steps}
    ),
    processing_class=_dummy_tokenizer(),
  )


def _collate(examples: list[dict[str, list[int]]]) -> dict[str, Any]:
  """What the trainer reads of a batch; responses are written by the student."""
  import torch

  ids = torch.tensor([example["ids"] for example in examples])
  mask = torch.ones_like(ids)
  return {
    "prompts": ids,
    "prompt_attention_mask": mask,
    "input_ids": ids.clone(),
    "attention_mask": mask.clone(),
    "labels": ids.clone(),
  }


def _dummy_tokenizer() -> Any:
  """The trainer insists on a tokenizer; it looks at the padding id alone."""
  import tokenizers
  import transformers

  words = tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(words),
    pad_token="<pad>",
    eos_token="<eos>",
  )
