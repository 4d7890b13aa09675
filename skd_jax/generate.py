"""Text in, text out: python -m skd_jax.generate --model=FOLDER < lines.txt.

With --draft a student, some layers of the model or the text itself drafts: the
same answers (greedy), or answers of the same distribution, in fewer passes of
the model. The command line alone; the function `skd_jax.generate` is in
text.py.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from absl import app, flags

_MODEL = flags.DEFINE_string(
  "model", None, "Hugging Face folder, such as WORKDIR/export.", required=True
)
_INPUT = flags.DEFINE_string(
  "input", "-", "File with one source per line; - is standard input."
)
_PROMPT = flags.DEFINE_string(
  "prompt", "{source}", "The user's turn, as in config.data.prompt."
)
_STOP = flags.DEFINE_multi_string(
  "stop", [], "Text that ends an answer, besides EOS. May be repeated."
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
  "max_new_tokens",
  0,
  "The most tokens of an answer; 0 is half of what the model reads, at most "
  "256.",
  lower_bound=0,
)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", 0.0, "0 is greedy.", lower_bound=0.0
)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Nucleus mass, in (0, 1].")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 32, "Lines answered at once.", lower_bound=1
)

_DRAFT = flags.DEFINE_string(
  "draft",
  None,
  "What drafts for --model (lossless speculative decoding): the Hugging Face "
  "folder of a student; layers:0,1,2, these layers of the model; or "
  "prompt_lookup, what followed an earlier occurrence of the last tokens. The "
  "share of accepted tokens and the speedup are printed at the end.",
)
_NUM_DRAFT_TOKENS = flags.DEFINE_integer(
  "num_draft_tokens", 4, "Tokens drafted before --model reads.", lower_bound=1
)
_LOOKUP = "prompt_lookup"
_LAYERS = "layers:"


def make_generator():
  """Returns the TextGenerator of the flags.

  Raises:
    ValueError, FileNotFoundError: a folder cannot be read, or the draft has
      another vocabulary, is larger, or names layers that are not there.
  """
  # Imported late, so that --help is quick.
  from skd_jax import models
  from skd_jax.data import tokenizer as tokenizer_lib
  from skd_jax.decoding.drafters import PromptLookup
  from skd_jax.text import TextGenerator

  kept = _layers()  # Before the weights are read, which may take minutes.
  tokenizer = tokenizer_lib.load_tokenizer(_MODEL.value)
  folders = [_MODEL.value]
  if _DRAFT.value and kept is None and _DRAFT.value != _LOOKUP:
    folders.append(_DRAFT.value)
  vocab_size = min(
    tokenizer_lib.check_same_vocabulary(
      tokenizer,
      tokenizer_lib.load_tokenizer(folder),
      tokenizer_lib.num_ids(tokenizer),
      models.load_config(folder).vocab_size,
    )
    for folder in folders
  )
  model, *drafts = [
    models.load_model(folder, vocab_size=vocab_size) for folder in folders
  ]
  if _DRAFT.value == _LOOKUP:
    drafts = [PromptLookup()]
  elif kept is not None:
    drafts = [models.prune_layers(model, kept)]
  return TextGenerator(
    model,
    tokenizer,
    draft=drafts[0] if drafts else None,
    max_new_tokens=_MAX_NEW_TOKENS.value,
    temperature=_TEMPERATURE.value,
    top_p=_TOP_P.value,
    stop_strings=_STOP.value,
    prompt=_PROMPT.value,
    seed=_SEED.value,
    batch_size=_BATCH_SIZE.value,
    num_draft_tokens=_NUM_DRAFT_TOKENS.value,
    eos_ids=tokenizer_lib.eos_ids(tokenizer, _MODEL.value),
  )


def _layers() -> tuple[int, ...] | None:
  """Returns the layers of the model that --draft names; None: it names none.

  Raises:
    ValueError: they are no layers of the model.
  """
  from skd_jax import models
  from skd_jax.models import pruning

  draft = _DRAFT.value or ""
  if not draft.startswith(_LAYERS):
    return None
  try:
    kept = tuple(map(int, draft.removeprefix(_LAYERS).split(",")))
  except ValueError:
    raise ValueError(
      f"--draft={draft}: must be layer numbers joined by commas, such as "
      f"{_LAYERS}0,1,2"
    ) from None
  num_layers = models.load_config(_MODEL.value).num_layers
  pruning.check_layers(kept, num_layers, name="--draft=layers")
  return kept


def main(argv: Sequence[str]) -> None:
  """Reads the flags, answers every line."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  from skd_jax import messages
  from skd_jax.parallel import compilation

  messages.show_warnings()
  compilation.keep_compiled()
  with contextlib.ExitStack() as stack:
    stack.enter_context(messages.errors_in_one_line())
    file = sys.stdin
    if _INPUT.value != "-":
      file = stack.enter_context(open(_INPUT.value, encoding="utf-8"))
    generator = make_generator()
    for text in generator.answers(_lines(file)):
      print(text, flush=True)
    if generator.summary():
      print(generator.summary(), file=sys.stderr)


def _lines(file: TextIO) -> Iterator[str]:
  """Yields the lines of a file."""
  try:
    yield from file
  except UnicodeDecodeError as error:
    raise ValueError(f"--input={_INPUT.value}: is not UTF-8: {error}") from None


if __name__ == "__main__":
  app.run(main)
