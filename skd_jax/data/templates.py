"""What a chat template writes, and what it reads besides the conversation.

Arguments become defaults of the template itself, so that all who render it do
it alike: prompts and references of a run, and whoever loads its export.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from skd_jax.structs import Message

# What transformers always passes, beside the special tokens.
_TAKEN = ("messages", "tools", "documents", "add_generation_prompt")


def render(
  tokenizer: Any,
  conversations: Sequence[Sequence[Message]],
  *,
  add_generation_prompt: bool = False,
) -> list[str]:
  """Returns each conversation as the chat template of a tokenizer writes it.

  Args:
    tokenizer: as `load_tokenizer` gives it, with a chat template.
    conversations: the turns of each.
    add_generation_prompt: whether to add what the assistant's turn begins with.

  Raises:
    ValueError: the template refuses a conversation, as Gemma 2's does one with
      a system turn, or leaves the system turn or calls of tools out.
  """
  texts = []
  for number, turns in enumerate(conversations):
    text = render_one(
      tokenizer,
      turns,
      f"example {number}",
      add_generation_prompt=add_generation_prompt,
    )
    for turn in turns:
      if turn["role"] == "system" and turn["content"].strip() not in text:
        raise ValueError(
          f"chat_template: leaves out the system turn of example {number}"
        )
      if turn.get("tool_calls") and "tool_calls" not in _template(tokenizer):
        raise ValueError(
          f"chat_template: leaves out the tool calls of example {number}"
        )
    texts.append(text)
  return texts


def render_one(
  tokenizer: Any,
  turns: Sequence[Message],
  name: str,
  *,
  add_generation_prompt: bool = False,
) -> str:
  """Returns a conversation as the chat template writes it.

  A template is a program of the folder, which transformers runs in a sandbox
  without attributes and long ranges. It may still loop on: the time is not
  limited, and Ctrl-C ends it.

  Args:
    tokenizer: as for render.
    turns: the conversation.
    name: what an error calls it.
    add_generation_prompt: as for render.

  Raises:
    ValueError: the template fails, for whatever reason.
  """
  try:
    return tokenizer.apply_chat_template(
      turns, tokenize=False, add_generation_prompt=add_generation_prompt
    )
  except Exception as error:
    reason = str(error).split("\n")[0] or type(error).__name__
    raise ValueError(
      f"chat_template: refuses the turns {[t['role'] for t in turns]} of "
      f"{name}: {reason}"
    ) from error


def check_arguments(arguments: Mapping[str, Any]) -> None:
  """Checks that arguments of a chat template are plain values.

  Raises:
    ValueError: names the argument, its value and what is allowed.
  """
  for name, value in arguments.items():
    if not name.isidentifier() or name in _TAKEN:
      raise ValueError(
        f"template_arguments has {name!r}: must be a name other than "
        f"{', '.join(_TAKEN)}"
      )
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number and not isinstance(value, str | None):
      raise ValueError(
        f"template_arguments.{name} = {value!r}: must be a text, a number, "
        "True, False or None"
      )


def set_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
  """Gives the chat template of a tokenizer defaults for what it reads.

  With {"enable_thinking": False}, in front of the template:

    {% if enable_thinking is not defined %}{% set enable_thinking = False %}...

  Args:
    tokenizer: as `load_tokenizer` gives it; changed in place.
    arguments: values by name, as of check_arguments.

  Raises:
    ValueError: there is no chat template, or it does not read a name; or as
      check_arguments.
  """
  check_arguments(arguments)
  template = _template(tokenizer)
  for name, value in arguments.items():
    if not re.search(rf"\b{name}\b", template):
      raise ValueError(
        f"template_arguments has {name!r}: the chat template of the tokenizer "
        "does not read it"
      )
    # The template begins on a line of its own: it may count on that.
    template = (
      f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}"
      f"{{% endif %}}\n{template}"
    )
  if arguments and isinstance(tokenizer.chat_template, dict):
    tokenizer.chat_template = tokenizer.chat_template | {"default": template}
  elif arguments:
    tokenizer.chat_template = template


def check_dateless(tokenizer: Any) -> None:
  """Checks that the chat template is the same tomorrow.

  Raises:
    ValueError: it writes today's date.
  """
  if "strftime_now" not in _template(tokenizer):
    return
  try:
    # Not a function: a template that asks it for the date fails.
    tokenizer.apply_chat_template(
      [{"role": "user", "content": "question"}],
      tokenize=False,
      add_generation_prompt=True,
      strftime_now="no clock",
    )
  except TypeError:
    raise ValueError(
      "template_arguments: must have the date, such as {'date_string': '26 Jul "
      "2024'}: the chat template of the tokenizer writes that of today, and a "
      "run could not be continued tomorrow"
    ) from None


def is_from(template: Any, original: Any) -> bool:
  """Whether a chat template is another one, with or without arguments."""
  if isinstance(template, str) and isinstance(original, str):
    return template.endswith(original)
  return template == original


def _template(tokenizer: Any) -> str:
  """The template that prompts are put in; empty: there is none."""
  template = tokenizer.chat_template
  return (template["default"] if isinstance(template, dict) else template) or ""
