"""Conversations: OpenAI's messages to examples.

  turns = "last"   system user assistant user   assistant
                   `-------- messages --------' `target-'

  turns = "all"    the same, and
                   system user   assistant
                   `-messages-'  `target-'

A response is an assistant's turn. One that calls tools is no text to learn, nor
is one of weight 0: they only stand in front of responses.
"""

from collections.abc import Mapping
from typing import Any

from skd_jax.structs import Example, Message

ROLES = ("system", "user", "assistant", "tool")
TURNS = ("last", "all")


def examples(messages: Any, turns: str) -> list[Example]:
  """Returns the examples of one conversation, one for each response.

  Args:
    messages: a list of {"role": ..., "content": ...}.
    turns: "last", for the last response only, or "all". What follows the last
      response is left out.

  Raises:
    ValueError: it is no conversation, or has no response.
  """
  conversation = _checked(messages)
  ends = [i for i, turn in enumerate(conversation) if _is_response(turn)]
  if not ends:
    raise ValueError("has no turn of the assistant to learn")
  if ends[0] == 0:
    raise ValueError("begins with the assistant's turn, which answers nothing")
  return [
    {
      "source": _shown(conversation[:end]),
      "target": conversation[end]["content"],
      "messages": conversation[:end],
    }
    for end in (ends if turns == "all" else ends[-1:])
  ]


def _checked(messages: Any) -> list[Message]:
  """The turns; fields that are null, as in columns of a table, are left out."""
  if not isinstance(messages, list):
    raise ValueError(f"is {_short(messages)}: must be a list of messages")
  conversation = []
  for number, turn in enumerate(messages, 1):
    if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
      raise ValueError(
        f"message {number} is {_short(turn)}: must have a role, one of "
        f"{', '.join(ROLES)}"
      )
    content = turn.get("content")
    if content is None and turn.get("tool_calls"):
      content = ""
    if not isinstance(content, str):
      raise ValueError(
        f"message {number} has the content {_short(content)}: must be a text"
      )
    known = {name: v for name, v in turn.items() if v is not None}
    conversation.append({**known, "content": content})
  return conversation


def _is_response(turn: Message) -> bool:
  return (
    turn["role"] == "assistant"
    and not turn.get("tool_calls")
    and turn.get("weight", 1) != 0
  )


def _shown(turns: list[Message]) -> str:
  """The text of turns, for people; a single one is its content."""
  if len(turns) == 1:
    return turns[0]["content"]
  return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."
