"""Drops layers of a model: python -m skd_jax.prune --path=FOLDER --output=NEW.

  python -m skd_jax.prune --path=FOLDER --keep=0,3,6 --output=NEW

reads a Hugging Face folder and writes another with layers 0, 3 and 6 alone. The
command line alone; the function is `skd_jax.models.prune_layers`.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence

from absl import app, flags

_PATH = flags.DEFINE_string(
  "path", None, "Hugging Face folder of the model.", required=True
)
_KEEP = flags.DEFINE_list(
  "keep",
  None,
  "Layers that stay, increasing, from 0, joined by commas: 0,3,6.",
  required=True,
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "Folder of the pruned model; an earlier export there is replaced.",
  required=True,
)

_GENERATION = "generation_config.json"


def prune_folder(
  path: str | os.PathLike[str],
  keep: Sequence[int],
  output: str | os.PathLike[str],
) -> str:
  """Writes a Hugging Face folder with some layers of another.

  The tokenizer, its chat template, what ends a response and
  generation_config.json are those of the other. So is the dtype of the weights,
  where it is bfloat16; else it is float32, which holds float16 exactly.

  Args:
    path: the folder that is read.
    keep: the layers that stay, increasing, from 0.
    output: the folder that is written, whole or not at all.

  Returns:
    A line that says what was written.

  Raises:
    ValueError: `keep` is not as `prune_layers` wants it, a folder cannot be
      read, or `output` is `path` or no earlier export.
    OSError: a file is missing, or cannot be written.
  """
  # Imported late, so that --help is quick.
  import jax

  from skd_jax import models
  from skd_jax.data import tokenizer as tokenizer_lib
  from skd_jax.models import pruning, tokenizer_files

  source, target = pathlib.Path(path), pathlib.Path(output)
  if source.resolve() == target.resolve():
    raise ValueError(f"--output={output}: must be another folder than --path")
  if target.exists() and not target.is_dir():
    raise ValueError(f"--output={output}: must be a folder")
  # Before the weights are read, which may take minutes.
  num_layers = models.load_config(source).num_layers
  pruning.check_layers(keep, num_layers)
  tokenizer = tokenizer_lib.load_tokenizer(source)
  dtype = _stored_dtype(source)
  pruned = pruning.prune_layers(models.load_model(source, dtype=dtype), keep)

  def write_more(folder: str) -> None:
    tokenizer_files.save_tokenizer(tokenizer, folder)
    if (source / _GENERATION).is_file():
      shutil.copy(source / _GENERATION, folder)

  models.save(
    target,
    pruned.config,
    pruned.params,
    dtype=dtype,
    eos_token_id=list(tokenizer_lib.eos_ids(tokenizer, source)),
    bos_token_id=tokenizer.bos_token_id,
    pad_token_id=tokenizer.pad_token_id,
    write_more=write_more,
  )
  num_weights = sum(x.size for x in jax.tree.leaves(pruned.params))
  return (
    f"{output}: {len(keep)} of {num_layers} layers, "
    f"{num_weights:,} weights, {dtype}"
  )


def _stored_dtype(folder: pathlib.Path) -> str:
  """ "bfloat16" where all tensors of a folder are; else "float32"."""
  import safetensors

  found = set()
  for path in sorted(folder.glob("*.safetensors")):
    try:
      with safetensors.safe_open(path, framework="numpy") as file:
        names = file.keys()
        found |= {file.get_slice(name).get_dtype() for name in names}
    except safetensors.SafetensorError as error:
      raise ValueError(f"{path} is not a safetensors file: {error}") from None
  return "bfloat16" if found == {"BF16"} else "float32"


def _layers(values: Sequence[str]) -> tuple[int, ...]:
  """The numbers of --keep.

  Raises:
    ValueError: one of them is no number.
  """
  try:
    return tuple(int(value) for value in values)
  except ValueError:
    raise ValueError(
      f"--keep={','.join(values)}: must be layer numbers joined by commas, "
      "such as 0,3,6"
    ) from None


def main(argv: Sequence[str]) -> None:
  """Reads the flags, writes the folder."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  from skd_jax import messages

  messages.show_warnings()
  with messages.errors_in_one_line():
    print(prune_folder(_PATH.value, _layers(_KEEP.value), _OUTPUT.value))


if __name__ == "__main__":
  app.run(main)
