"""EOS and stop strings inside a jitted loop, whatever the tokenisation.

A stop string may begin in the middle of one token and end in the middle of
another, so it is searched in the bytes of the tokens (data/stop_strings.py).
The Aho-Corasick automaton of all stop strings is run over every token from
every state, once, on the host; a decode step then looks up one number per row:

  stop string "ab", tokens 0: "a"  1: "b"  2: "xa"  3: EOS

    state             "a"  "b"  "xa"  EOS
    0  (no match)      1    0    1    DONE
    1  (seen "a")      1   DONE  1    DONE

Only the response is searched: every row starts again after its prompt. Tasks
with different stop strings share one table; each has states of its own, one
below the other, and a row starts in the first of its task:

  task 0   states 0 1        start 0
  task 1   states 2 3 4      start 2
"""

from collections import deque
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

DONE = -1  # The state of a row from its last token on.


@struct.dataclass
class StopTable:
  """Where each token leads from each state of the search."""

  next_state: jax.Array  # int32 [states, V], DONE after the last token
  start: jax.Array  # int32 [tasks]: the state before the first response token


def _search_automaton(
  sequences: Sequence[Sequence[Hashable]], classes: dict[Hashable, int]
) -> np.ndarray:
  """Aho-Corasick, int32 [states, classes + 1]; the last class is "other".

  A state is the longest end of what was read that begins a stop sequence.
  """
  children: list[dict[int, int]] = [{}]
  complete = [False]
  for sequence in sequences:
    node = 0
    for symbol in sequence:
      node = children[node].setdefault(classes[symbol], len(children))
      if node == len(children):
        children.append({})
        complete.append(False)
    complete[node] = True
  move = np.zeros((len(children), len(classes) + 1), np.int32)
  # Breadth first, so that the row of the shorter state that a state falls back
  # to is final before it is copied.
  fallback = {0: 0}
  queue = deque([0])
  while queue:
    node = queue.popleft()
    complete[node] |= complete[fallback[node]]
    if node:
      move[node] = move[fallback[node]]
    for symbol, child in children[node].items():
      fallback[child] = int(move[node, symbol])
      move[node, symbol] = child
      queue.append(child)
  # Complete states are never left, so their rows go and DONE takes their place.
  keep = np.flatnonzero(~np.asarray(complete))
  renumber = np.full(len(children), DONE, np.int32)
  renumber[keep] = np.arange(len(keep))
  return renumber[move[keep]]


def make_stop_table(
  vocab_size: int,
  eos_ids: Sequence[int],
  stop_sequences: Sequence[Sequence[Hashable]] = (),
  token_symbols: Sequence[Sequence[Hashable]] | None = None,
) -> StopTable:
  """Precomputes where each token leads.

  Args:
    vocab_size: V, the number of ids that can be sampled.
    eos_ids: The ids that end a response by themselves.
    stop_sequences: The sequences of symbols that end a response as soon as it
      contains one of them. It is kept whole, with the rest of the last token.
    token_symbols: For each of the V ids, the symbols that it stands for (none
      for BOS and the like). The id itself by default, so that `stop_sequences`
      are sequences of ids.

  Returns:
    The table. It has one state per distinct beginning of a stop sequence.

  Raises:
    ValueError: An EOS id is not below V, a stop sequence is empty, or
      `token_symbols` does not have V entries.
  """
  for eos in eos_ids:
    if not 0 <= eos < vocab_size:
      raise ValueError(f"eos_ids: {eos} is not an id below {vocab_size}")
  for number, sequence in enumerate(stop_sequences):
    if not len(sequence):
      raise ValueError(f"stop_sequences[{number}] is empty")
  if token_symbols is None:
    token_symbols = [(token,) for token in range(vocab_size)]
  if len(token_symbols) != vocab_size:
    raise ValueError(
      f"token_symbols has {len(token_symbols)} entries: must be {vocab_size}"
    )
  symbols = dict.fromkeys(s for sequence in stop_sequences for s in sequence)
  classes: dict[Hashable, int] = {s: i for i, s in enumerate(symbols)}
  move = _search_automaton(stop_sequences, classes)
  # DONE = -1 indexes the last row: it stays DONE.
  move = np.vstack([move, np.full_like(move[:1], DONE)])
  lengths = np.array([len(symbols_of) for symbols_of in token_symbols])
  other = len(classes)
  flat = np.array(
    [classes.get(s, other) for symbols_of in token_symbols for s in symbols_of],
    np.int32,
  )
  first = np.cumsum(lengths) - lengths
  # All tokens at once, symbol by symbol; the longest tokens come first, so that
  # the tokens that still have a k-th symbol are a prefix.
  order = np.argsort(-lengths, kind="stable")
  states = np.repeat(
    np.arange(len(move) - 1, dtype=np.int32)[:, None], vocab_size, axis=1
  )
  for k in range(int(lengths.max(initial=0))):
    active = order[: int(np.sum(lengths > k))]
    states[:, active] = move[states[:, active], flat[first[active] + k]]
  states[:, list(eos_ids)] = DONE
  return StopTable(
    next_state=jnp.asarray(states), start=jnp.zeros(1, jnp.int32)
  )


def join_stop_tables(tables: Sequence[StopTable]) -> StopTable:
  """Joins the tables of several tasks over the same V ids, in their order."""
  sizes = [len(table.next_state) for table in tables]
  first = np.cumsum([0, *sizes[:-1]])
  shifted = [
    jnp.where(table.next_state == DONE, DONE, table.next_state + int(offset))
    for table, offset in zip(tables, first, strict=True)
  ]
  starts = [
    table.start + int(offset)
    for table, offset in zip(tables, first, strict=True)
  ]
  return StopTable(
    next_state=jnp.concatenate(shifted), start=jnp.concatenate(starts)
  )


def advance(table: StopTable, state: jax.Array, token: jax.Array) -> jax.Array:
  """The search after one more token per row.

  Args:
    table: As `make_stop_table` gives it.
    state: int32 [B], the start of the row's task before the first token.
    token: int32 [B], ids below V; any id for a row that is DONE.

  Returns:
    int32 [B]: DONE for a row whose response ends with this token, or before.
  """
  return jnp.where(state == DONE, DONE, table.next_state[state, token])
