"""Text in, text out: python -m skd_jax.generate --model=FOLDER < lines.txt.

With --draft=FOLDER a student drafts: the same answers (greedy), or answers of
the same distribution, in fewer passes of the model. The command line alone; the
function `skd_jax.generate` is in text.py.
"""

import contextlib
import sys
from collections.abc import Sequence

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
  "Hugging Face folder of a student that drafts for --model (lossless "
  "speculative decoding); what it brought is printed at the end.",
)
_NUM_DRAFT_TOKENS = flags.DEFINE_integer(
  "num_draft_tokens", 4, "Tokens drafted before --model reads.", lower_bound=1
)


def make_generator():
  """Returns the TextGenerator of the flags.

  Raises:
    ValueError, FileNotFoundError: a folder cannot be read, or the draft has
      another vocabulary.
  """
  # Imported late, so that --help is quick.
  from skd_jax import models
  from skd_jax.data import tokenizer as tokenizer_lib
  from skd_jax.text import TextGenerator

  tokenizer = tokenizer_lib.load_tokenizer(_MODEL.value)
  folders = [_MODEL.value] + ([_DRAFT.value] if _DRAFT.value else [])
  vocab_size = min(
    tokenizer_lib.check_same_vocabulary(
      tokenizer_lib.load_tokenizer(folder),
      tokenizer,
      models.load_config(folder).vocab_size,
      tokenizer_lib.num_ids(tokenizer),
    )
    for folder in folders
  )
  model, *draft = [
    models.load_model(folder, vocab_size=vocab_size) for folder in folders
  ]
  return TextGenerator(
    model,
    tokenizer,
    draft=draft[0] if draft else None,
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


def main(argv: Sequence[str]) -> None:
  """Reads the flags, answers every line."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  from skd_jax import messages
  from skd_jax.parallel import compilation

  messages.show_warnings()
  compilation.keep_compiled()
  try:
    with contextlib.ExitStack() as stack:
      file = sys.stdin
      if _INPUT.value != "-":
        file = stack.enter_context(open(_INPUT.value, encoding="utf-8"))
      generator = make_generator()
      for text in generator.answers(file):
        print(text, flush=True)
      if generator.summary():
        print(generator.summary(), file=sys.stderr)
  except (ValueError, FileNotFoundError) as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    sys.exit(130)


if __name__ == "__main__":
  app.run(main)
