"""Writes new keys and values to a cache in place, on TPU.

XLA scatters them, and turns the cache around for it, so that a kernel that
reads it would need a copy. Here each row has the slots around its new ones
copied to fast memory, where these are put in, and copied back:

  slots of a row   0 .. 7 | 8 .. 15 | 16 .. 23 | 24 ..
  new, first = 13                xx   xx             n = 4
  copied                  |---------|----------|     whole groups of 8 slots
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from skd_jax.models.fused_attention import SLOTS_TOGETHER

# Of what is held of one cache at once: the rows of a step of the kernel.
_WINDOW_BYTES = 2**20


def write(
  caches: tuple[jax.Array, ...],
  news: tuple[jax.Array, ...],
  first: jax.Array,
  *,
  interpret: bool = False,
) -> tuple[jax.Array, ...]:
  """Writes n new ones to the slots from `first` on; those past S are dropped.

  Args:
    caches: [B, N, S, H] each, of keys and of values; S is a multiple of 8.
    news: [B, N, n, H] each, likewise.
    first: int32 [B], the slot of each row's first one, at least 0.
    interpret: run it without a TPU.

  Returns:
    The caches, in the memory of those that were given.
  """
  batch, groups, num_slots, size = caches[0].shape
  n, dtype = news[0].shape[2], caches[0].dtype
  # The worst first slot is the last of its group.
  copied = -(-(n + SLOTS_TOGETHER - 1) // SLOTS_TOGETHER) * SLOTS_TOGETHER
  if num_slots % SLOTS_TOGETHER or num_slots < copied:
    raise ValueError(
      f"the cache has {num_slots} slots: must be a multiple of "
      f"{SLOTS_TOGETHER}, at least {copied}"
    )
  fit = _WINDOW_BYTES // (groups * copied * size * dtype.itemsize)
  rows = max(
    r for r in range(1, batch + 1) if batch % r == 0 and r <= max(fit, 1)
  )
  count = len(caches)
  in_hbm = pl.BlockSpec(memory_space=pltpu.HBM)
  own = pl.BlockSpec((rows, groups, n, size), lambda i, first: (i, 0, 0, 0))
  if not interpret:
    # Else the compiler would move a whole cache to fast memory and back.
    caches = tuple(
      pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in caches
    )
  return pl.pallas_call(
    functools.partial(_kernel, count),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(batch // rows,),
      in_specs=[own] * count + [in_hbm] * count,
      out_specs=[in_hbm] * count,
      scratch_shapes=[
        pltpu.VMEM((count, rows, groups, copied, size), dtype),
        pltpu.SemaphoreType.DMA((count, rows)),
      ],
    ),
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in caches],
    # The scalars are the first argument.
    input_output_aliases={1 + count + i: i for i in range(count)},
    # Chips with two cores share the rows, where these are several steps.
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
    interpret=interpret,
  )(first, *[x.astype(dtype) for x in news], *caches)


def _kernel(count, first, *refs):
  """Copies in, puts in, copies back some rows, all at once; see `write`.

  Args:
    count: C, of the caches.
    first: int32 [B].
    refs: C news [b, N, n, H] of b rows, C caches [B, N, S, H], the same C
      caches as results; the window [C, b, N, copied, H] and a semaphore for
      each of its rows.
  """
  news, caches = refs[:count], refs[2 * count : 3 * count]
  window, arrived = refs[3 * count :]
  num_rows, copied = window.shape[1], window.shape[3]
  row = pl.program_id(0) * num_rows
  last = caches[0].shape[2] - copied

  def begin(b):
    at = first[row + b]
    start = jnp.minimum(at - jax.lax.rem(at, SLOTS_TOGETHER), last)
    return pl.multiple_of(start, SLOTS_TOGETHER)

  def slots(i, b):
    return caches[i].at[row + b, :, pl.ds(begin(b), copied)]

  def fetch(i, b):
    return pltpu.make_async_copy(slots(i, b), window.at[i, b], arrived.at[i, b])

  def put_back(i, b):
    return pltpu.make_async_copy(window.at[i, b], slots(i, b), arrived.at[i, b])

  def put_in(i, b):
    slot = begin(b) + jax.lax.broadcasted_iota(jnp.int32, window.shape[2:], 1)
    held = window[i, b]
    for token in range(news[i].shape[2]):
      new = news[i][b, :, token : token + 1]
      held = jnp.where(slot == first[row + b] + token, new, held)
    window[i, b] = held

  def for_all(step):
    @pl.loop(0, num_rows)
    def _(b):
      for i in range(count):
        step(i, b)

  def turn(i, b):
    fetch(i, b).wait()
    put_in(i, b)
    put_back(i, b).start()

  for_all(lambda i, b: fetch(i, b).start())
  for_all(turn)
  for_all(lambda i, b: put_back(i, b).wait())
