"""Logits to tokens: temperature, top-p, greedy, and one key per draw.

The key of a draw is a function of (row key, role, position) and of nothing
else, so a row's tokens do not depend on the other rows of its batch, on how
many tokens are drafted per round, or on how the batch is spread over devices.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

# The roles that draw randomness at a position.
STUDENT_DRAW = 0  # The student's proposal.
ACCEPT_DRAW = 1  # The uniform number of a randomised acceptance rule.
TEACHER_DRAW = 2  # The teacher's replacement.
REFERENCE_DRAW = 3  # Whether the row is the data set's; at position 0.
SECOND_DRAW = 4  # The student's other proposal, of `released_top_k`.

# The blocks in which the nucleus is sought first: how many, and how wide.
_NUM_BEST = 32
_NARROW = 32

# Logits of any model, divided by less, could leave float32.
_LEAST_TEMPERATURE = 1e-6

# Width of the lower level of the two-level inverse CDF; a row of a register of
# a TPU.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn from logits.

  temperature: logits are divided by it; 0 means greedy.
  top_p: keep the smallest set of most probable tokens whose mass, after the
    temperature, reaches this. Tokens tied at the edge are all kept.
  """

  temperature: float = 1.0
  top_p: float = 1.0

  def __post_init__(self):
    if self.temperature != 0 and not self.temperature >= _LEAST_TEMPERATURE:
      raise ValueError(
        f"temperature = {self.temperature}: must be 0 (greedy), or "
        f"{_LEAST_TEMPERATURE} or above"
      )
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p = {self.top_p}: must be in (0, 1]")


GREEDY = Sampling(temperature=0.0)


@jax.jit
def row_keys(seed: int, step: int, index: jax.Array) -> jax.Array:
  """Returns one PRNG key a row, [B], from the seed, the step and the example.

  Where the example stands in its batch does not matter. An example that is
  there several times, as a mixture of tasks may read a small one, has a key
  for each copy:

    index  7 3 7 7
    copy   0 0 1 2
  """
  step_key = jax.random.fold_in(jax.random.key(seed), step)
  keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(index)
  is_same = index[:, None] == index[None, :]
  copy = jnp.sum(jnp.tril(is_same, -1), axis=1)
  return jnp.where(copy > 0, jax.vmap(jax.random.fold_in)(keys, copy), keys)


def draw_uniform(
  row_keys: jax.Array, role: int, position: jax.Array
) -> jax.Array:
  """Draws one uniform number for each row, keyed by role and position.

  Args:
    row_keys: typed PRNG keys [B], one a row.
    role: STUDENT_DRAW, ACCEPT_DRAW, ...
    position: int32 [B] or [B, G], the index of the token in the response.

  Returns:
    float32, the shape of `position`, in [0, 1).
  """

  def draw(key, at):
    return jax.random.uniform(jax.random.fold_in(key, at), dtype=jnp.float32)

  role_keys = jax.vmap(lambda key: jax.random.fold_in(key, role))(row_keys)
  if position.ndim == 2:
    return jax.vmap(jax.vmap(draw, (None, 0)))(role_keys, position)
  return jax.vmap(draw)(role_keys, position)


def nucleus_floor(blocks: jax.Array, mass: jax.Array) -> jax.Array:
  """Returns the least weight inside the nucleus, without a sort.

  The mass of `{v: weights[v] >= t}` falls as t rises; the floor is the largest
  t at which it still reaches `mass`. Non-negative floats are ordered as their
  bits are, so the bits of t are found one after the other, exactly.

  Args:
    blocks: float32 [..., n, 128] in [0, 1]; the probabilities of a vocabulary,
      or what is proportional to them.
    mass: float32 [..., 1, 1], to reach; above 0.

  Returns:
    float32 [..., 1, 1]; `blocks >= floor` is the nucleus, ties included.
  """
  # A CPU is slow at a pass over V, and a loop costs it nothing. A TPU is slow
  # at top_k, and a GPU at starting a kernel: a pass is three of them.
  return jax.lax.platform_dependent(
    blocks,
    mass,
    cpu=floor_by_halving,
    tpu=floor_by_digits,
    default=functools.partial(floor_by_digits, digit_bits=4),
  )


def floor_by_digits(
  blocks: jax.Array, mass: jax.Array, digit_bits: int = 2
) -> jax.Array:
  """Finds the floor of the nucleus from all of V, some bits a pass; no loop.

  Args:
    blocks: as in nucleus_floor.
    mass: likewise.
    digit_bits: of the floor, found in one pass.
  """
  # Else every pass would compute the weights again, in the layout of logits.
  blocks = jax.lax.optimization_barrier(blocks)
  bits = jax.lax.bitcast_convert_type(blocks, jnp.int32)

  def digit_from(low, shift, num_bits):
    """Returns the largest digit whose tail reaches the mass, [..., 1, 1]."""
    inside = [
      jnp.where(bits >= low + (digit << shift), blocks, 0.0)
      for digit in range(1, 2**num_bits)
    ]
    # All sums are one reduction: a GPU reads the weights once a pass.
    tails = jax.lax.reduce(
      inside,
      [jnp.float32(0)] * len(inside),
      lambda *parts: jax.tree.map(jnp.add, *parts),
      (bits.ndim - 2, bits.ndim - 1),
    )
    return sum(
      (tail[..., None, None] >= mass).astype(jnp.int32) for tail in tails
    )

  low = jnp.zeros(mass.shape, jnp.int32)
  left = 30  # Of numbers up to 1, the upper bits are 0.
  while left:
    num_bits = min(digit_bits, left)
    left -= num_bits
    low += digit_from(low, left, num_bits) << left
  # The most probable token is inside, however small the mass is.
  low = jnp.minimum(low, jnp.max(bits, axis=(-2, -1), keepdims=True))
  return jax.lax.bitcast_convert_type(low, jnp.float32)


def floor_by_halving(blocks: jax.Array, mass: jax.Array) -> jax.Array:
  """Finds the floor of the nucleus from few candidates, one bit a turn.

  Where V is large, they are the blocks of the vocabulary with the largest
  maxima, which hold every token above the least of these maxima. Only where
  the nucleus of some row is wider than that is all of V searched.
  """
  weights = blocks.reshape(*blocks.shape[:-2], -1)
  mass = mass[..., 0]
  if weights.shape[-1] <= 2 * _NUM_BEST * _NARROW:
    return _halve(weights, mass)[..., None]
  narrow = weights.reshape(*weights.shape[:-1], -1, _NARROW)
  maxima, best = jax.lax.top_k(jnp.max(narrow, axis=-1), _NUM_BEST)
  candidates = jnp.take_along_axis(narrow, best[..., None], axis=-2)
  floor = _halve(candidates.reshape(*weights.shape[:-1], -1), mass)
  # Not maxima[..., -1:]: sliced once more, top_k is compiled for CPU as a sort.
  least = jnp.min(maxima, axis=-1, keepdims=True)
  return jax.lax.cond(
    jnp.all(floor > least), lambda: floor, lambda: _halve(weights, mass)
  )[..., None]


def _halve(weights: jax.Array, mass: jax.Array) -> jax.Array:
  """Finds the floor of the nucleus among [..., n] weights by bisection."""
  bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

  def halve(_, bounds):
    low, high = bounds  # mass of low >= mass > mass of high
    middle = low + (high - low) // 2
    tail = jnp.sum(
      jnp.where(bits >= middle, weights, 0.0), axis=-1, keepdims=True
    )
    reached = tail >= mass
    return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

  # The most probable token is always inside: rounding can leave a total mass
  # below top_p, and the bisection would then end at 0 and keep everything.
  low = jnp.zeros(mass.shape, jnp.int32)
  high = jnp.max(bits, axis=-1, keepdims=True) + 1
  low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
  return jax.lax.bitcast_convert_type(low, jnp.float32)


def _blocks(x: jax.Array, padding: float) -> jax.Array:
  """Reshapes [..., V] to the registers of a TPU, [..., n, 128]."""
  size = x.shape[-1]
  num_blocks = -(-size // _BLOCK)
  width = [(0, 0)] * (x.ndim - 1) + [(0, num_blocks * _BLOCK - size)]
  x = jnp.pad(x, width, constant_values=padding)
  return x.reshape(*x.shape[:-1], num_blocks, _BLOCK)


def warp(logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns the log-probabilities that tokens are drawn with.

  Args:
    logits: float32 [..., V], raw.
    sampling: temperature, then top-p.

  Returns:
    float32 [..., V], normalised; -inf outside the nucleus. Greedy gives 0 at
    the (first) largest logit and -inf elsewhere.
  """
  if sampling.temperature == 0:
    best = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
    return jnp.where(best, 0.0, -jnp.inf)
  # As `draw` does. Large quotients would not cancel where those of the logits
  # and the largest of them are rounded differently.
  below_largest = logits - jnp.max(logits, axis=-1, keepdims=True)
  scaled = below_largest / sampling.temperature
  total = jnp.sum(jnp.exp(scaled), axis=-1, keepdims=True)
  log_probs = scaled - jnp.log(total)
  if sampling.top_p == 1:
    return log_probs
  probs = jnp.exp(log_probs)
  mass = jnp.full((*probs.shape[:-1], 1, 1), sampling.top_p, probs.dtype)
  inside = probs >= nucleus_floor(_blocks(probs, 0.0), mass)[..., 0]
  return jax.nn.log_softmax(jnp.where(inside, log_probs, -jnp.inf))


def draw(
  logits: jax.Array, sampling: Sampling, uniform: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Draws one token a row, in fewer passes over V than warp and draw_token.

  The weights exp((logit - max) / temperature) are never normalised.

  Args:
    logits: float32 [B, V], raw.
    sampling: temperature, then top-p.
    uniform: float32 [B], in [0, 1).

  Returns:
    (int32 [B], that of draw_token; float32 [B], its log-probability as warp has
    it).
  """
  if sampling.temperature == 0:
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return token, jnp.zeros(token.shape, jnp.float32)
  blocks = _weights(logits, sampling.temperature)
  if sampling.top_p < 1:
    mass = sampling.top_p * jnp.sum(blocks, axis=(-2, -1), keepdims=True)
    inside = blocks >= nucleus_floor(blocks, mass)
    blocks = jnp.where(inside, blocks, 0.0)
  token, share = _invert(blocks, uniform, logits.shape[-1])
  return token, jnp.log(share)


def draw_token(log_probs: jax.Array, uniform: jax.Array) -> jax.Array:
  """Draws one token a row by inverting the cumulative distribution.

  One uniform number a draw, and no cumulative sum over the vocabulary: first
  the block in which the cumulative sum passes `uniform`, then the token in it.
  (Measured on a CPU with V = 49,152, this costs a twenty-fifth of the Gumbel
  trick, which draws V numbers.)

  Args:
    log_probs: float32 [B, V]; unnormalised will do, -inf is never drawn.
    uniform: float32 [B], in [0, 1).

  Returns:
    int32 [B], below V also where log_probs are NaN.
  """
  return _invert(_weights(log_probs), uniform, log_probs.shape[-1])[0]


def _weights(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Returns exp((logit - max) / temperature), in blocks."""
  # Else a TPU would do all this in the layout of one row, which fills an eighth
  # of a register.
  blocks = jax.lax.optimization_barrier(_blocks(logits, -jnp.inf))
  largest = jnp.max(blocks, axis=(-2, -1), keepdims=True)
  return jnp.exp((blocks - largest) / temperature)


def _invert(
  blocks: jax.Array, uniform: jax.Array, vocab_size: int
) -> tuple[jax.Array, jax.Array]:
  """Returns (the token [B], its share of the weights [B, n, 128])."""
  mass = jnp.sum(blocks, axis=-1)
  total = jnp.sum(mass, axis=-1)
  target = uniform * total
  block, before = _first_past(mass, target)
  inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  at, _ = _first_past(inside, target - before)
  weight = jnp.take_along_axis(inside, at[:, None], axis=1)[:, 0]
  # NaN has no mass anywhere, and the last index found is one of the padding.
  token = jnp.minimum(block * _BLOCK + at, vocab_size - 1)
  return token.astype(jnp.int32), weight / total


def _first_past(
  mass: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Finds the first index with mass at which the running sum passes target.

  Rounding can leave `target` at or past the whole sum; then the last index
  with mass is taken, so that an entry without mass is never chosen.

  Returns:
    (int32 [B] index, float32 [B] sum before the index).
  """
  total = jnp.cumsum(mass, axis=-1)
  has_mass = mass > 0
  passes = (total > target[:, None]) & has_mass
  last = mass.shape[-1] - 1 - jnp.argmax(has_mass[:, ::-1], axis=-1)
  index = jnp.where(jnp.any(passes, -1), jnp.argmax(passes, -1), last)
  before = jnp.take_along_axis(total - mass, index[:, None], axis=-1)[:, 0]
  return index, before
