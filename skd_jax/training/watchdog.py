"""Ends a process whose step is stuck, so that it can be started again.

A step that waits for a process or a disk that has gone never ends by itself.
The watchdog shows where every thread is, and ends the process without waiting
for anything. When it is started again, the run continues from its newest
checkpoint.
"""

import contextlib
import faulthandler
import os
import threading
from collections.abc import Iterator

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed.
_STDERR = 2  # The descriptor: a notebook has replaced sys.stderr by no file.


@contextlib.contextmanager
def limited(minutes: float, what: str) -> Iterator[None]:
  """Ends the process with EXIT_CODE if a block takes longer than its limit.

  Args:
    minutes: the limit; 0: none.
    what: the name of the block, for the message.
  """
  if not minutes:
    yield
    return
  timer = threading.Timer(60 * minutes, _give_up, (minutes, what))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _give_up(minutes: float, what: str) -> None:
  message = (
    f"\nError: {what} takes longer than max_step_minutes = {minutes:g}. Exit "
    f"code {EXIT_CODE}: the same command continues. Where every thread is:\n"
  )
  os.write(_STDERR, message.encode())
  faulthandler.dump_traceback(file=_STDERR)
  # Not sys.exit, which would wait for what is stuck.
  os._exit(EXIT_CODE)
