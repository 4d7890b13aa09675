"""Answers lines as they come: load, generate, draft, stream.

python examples/generate_text.py workdir/teacher workdir/export < lines.txt
"""

import sys

import skd_jax


def main(folder, draft_folder=None):
  """Prints the answer to each line of standard input.

  Args:
    folder: of the model that answers, such as WORKDIR/teacher.
    draft_folder: of a student that drafts for it, such as WORKDIR/export.
  """
  model = skd_jax.load_model(folder)
  tokenizer = skd_jax.load_tokenizer(folder)
  draft = skd_jax.load_model(draft_folder) if draft_folder else None
  answers = skd_jax.generate(
    sys.stdin, model, tokenizer, draft=draft, max_new_tokens=32, batch_size=4
  )
  for answer in answers:  # Four lines are read before the first is printed.
    print(answer, flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
