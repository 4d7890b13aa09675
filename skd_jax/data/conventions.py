"""What two checkpoints take for granted, and whether it is the same.

Their vocabularies must be the same (tokenizer.check_same_vocabulary). What is
here may differ, and is worth knowing: where a response ends, and how a prompt
is put.
"""

import os
from collections.abc import Collection, Mapping

from skd_jax.data import templates
from skd_jax.data import tokenizer as tokenizer_lib


def convention_warnings(
  folders: Mapping[str, str],
  *,
  tokenizer: tokenizer_lib.Tokenizer,
  tokenizer_folder: str,
  eos_ids: Collection[int],
) -> list[str]:
  """Says where the conventions of checkpoints and of the run differ.

  Args:
    folders: the Hugging Face folders of "teacher" and "student"; a model that
      is made from scratch has none, and follows the run.
    tokenizer: of the run.
    tokenizer_folder: where it is from.
    eos_ids: what ends a response of the run.

  Returns:
    One line for each difference.

  Raises:
    ValueError, FileNotFoundError: a tokenizer cannot be read.
  """
  lines, ends = [], {}
  for role, folder in folders.items():
    if _is_same(folder, tokenizer_folder):
      ends[role] = tuple(sorted(eos_ids))
      continue
    own = tokenizer_lib.load_tokenizer(folder)
    ends[role] = tokenizer_lib.eos_ids(own, folder)
    lines += _about_template(own, tokenizer, role, folder, tokenizer_folder)
  return lines + _about_ends(ends, folders, eos_ids)


def _is_same(one: str, other: str) -> bool:
  """Whether two folders are one, as far as paths say so."""
  return bool(other) and os.path.realpath(one) == os.path.realpath(other)


def _about_template(
  own: tokenizer_lib.Tokenizer,
  of_run: tokenizer_lib.Tokenizer,
  role: str,
  folder: str,
  tokenizer_folder: str,
) -> list[str]:
  """Says whether a model was made for other prompts than those of the run."""
  if templates.is_from(of_run.chat_template, own.chat_template):
    return []
  if of_run.chat_template is None:
    return [
      f"{role} {folder}: has a chat template; {tokenizer_folder} has none, and "
      "prompts are put without one"
    ]
  has = "no" if own.chat_template is None else "another"
  return [
    f"{role} {folder}: has {has} chat template; that of {tokenizer_folder} is "
    "used for both models"
  ]


def _about_ends(
  ends: Mapping[str, Collection[int]],
  folders: Mapping[str, str],
  eos_ids: Collection[int],
) -> list[str]:
  """Says which ids end a response for a model and not for the run, or other."""
  of_run = f"a response of this run ends at {sorted(eos_ids)}"
  lines = [
    f"{role} {folders[role]}: ends its responses with {list(ids)}; {of_run}"
    for role, ids in ends.items()
    if not set(ids) <= set(eos_ids)
  ]
  if not lines and len(set(ends.values())) > 1:
    each = ", ".join(f"the {role}'s are {list(i)}" for role, i in ends.items())
    lines = [f"EOS ids differ: {each}; {of_run}"]
  return lines
