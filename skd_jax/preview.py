"""example.txt: the first training example as the models read it.

What a template, a limit or a stop does to the data is seen here before hours
are spent.
"""

import numpy as np
from absl import logging

from skd_jax.data import tasks as tasks_lib
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.experiment import Experiment
from skd_jax.parallel import processes
from skd_jax.reporting import files


def write_example(experiment: Experiment) -> None:
  """Writes WORKDIR/example.txt, in the first process."""
  if not processes.is_first():
    return
  path = experiment.workdir / "example.txt"
  text = "\n".join(
    describe_example(experiment.tasks, number)
    for number in range(len(experiment.tasks.tasks))
  )
  files.write_atomically(path, text)
  logging.info("The first example, as the models read it: %s", path)


def describe_example(task_set: tasks_lib.TaskSet, number: int) -> str:
  """Returns the first training example of a task, token by token.

  Args:
    task_set: the tasks.
    number: of the task.

  Returns:
    The prompt and the response with their special tokens, which tokens are in
    the loss, and what ends a response. Lines, each with its end.
  """
  task, train = task_set.tasks[number], task_set.train
  place = int(np.flatnonzero(train.task_id == number)[0])
  prompt, response = train.prompts[place], train.responses[place]
  tokenizer = task_set.tokenizer
  ends = ", ".join(_token(tokenizer, id) for id in task_set.eos_ids)
  texts = ", ".join(map(repr, task.stop_strings)) or "none"
  return (
    f"{task.name}: the first training example\n\n"
    f"Prompt, {len(prompt)} of at most {task.prompt_length} tokens, none in the"
    f" loss:\n{tokenizer.decode(prompt)}\n{_tokens(tokenizer, prompt)}\n\n"
    f"Response, {len(response)} of at most {task.max_new_tokens} tokens, all in"
    f" the loss:\n{tokenizer.decode(response)}\n"
    f"{_tokens(tokenizer, response)}\n\n"
    f"A response ends with one of the tokens {ends}; before one of the texts: "
    f"{texts}; or after {task.max_new_tokens} tokens.\n"
  )


def _tokens(tokenizer: tokenizer_lib.Tokenizer, ids: np.ndarray) -> str:
  return " ".join(_token(tokenizer, int(id)) for id in ids)


def _token(tokenizer: tokenizer_lib.Tokenizer, id: int) -> str:
  return f"{id}:{tokenizer.decode([id])!r}"
