"""Runs an experiment: python -m skd_jax.main --config=configs/wmt.py."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "The experiment, such as configs/wmt.py or configs/wmt.py:multi30k; single "
  "settings as --config.distill.num_steps=100.",
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "workdir",
  "Where results, checkpoints and logs go. A second start continues. Several "
  "processes must share this folder.",
)
_METHOD = flags.DEFINE_string(
  "method",
  None,
  "A way to distil by its name, such as skd, gkd or supervised_kd (see "
  "skd_jax/methods.py); --config.* goes on top of it.",
)
_CONTINUE_WITH_CHANGES = flags.DEFINE_bool(
  "continue_with_changes",
  False,
  "A stage under way goes on with other settings of its training, such as a "
  "lower learning rate; config.json records them.",
)
# SLURM and TPU VMs need none of these.
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  "coordinator_address",
  None,
  "HOST:PORT of process 0, where several processes are started by hand.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "How many processes the run has."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Which of them this one is, from 0."
)


def main(argv: Sequence[str]) -> None:
  """Hands the parsed flags over to train_and_evaluate."""
  del argv
  # Imported late, so that a misspelt flag is reported at once.
  from skd_jax import messages

  messages.show_all()
  from skd_jax import train
  from skd_jax.parallel import compilation, processes

  compilation.keep_compiled()
  with stop_in_one_line():
    processes.initialize(
      _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    if not processes.is_first():
      logging.set_verbosity(logging.WARNING)
    train.train_and_evaluate(
      with_method(_CONFIG.value),
      _WORKDIR.value,
      command=messages.command_line("skd_jax.main"),
      continue_with_changes=_CONTINUE_WITH_CHANGES.value,
    )


def with_method(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns the config with --method, and --config.* on top of it.

  The control of another method takes its rate from --config.rollout.threshold.

  Raises:
    ValueError: an unknown method, or a control without its rate.
  """
  from skd_jax import methods

  name = _METHOD.value
  if name is None:
    return config
  given = config_flags.get_override_values(flags.FLAGS["config"])
  rate = given.get("rollout.threshold") if name in methods.CONTROLS else None
  return methods.change(methods.apply_method(config, name, rate), given)


@contextlib.contextmanager
def stop_in_one_line() -> Iterator[None]:
  """Ends the program with one line for people where a run stops or fails.

  In a run of several processes, each that fails says so in its line; how that
  ends the others, processes.initialize says.
  """
  from skd_jax.parallel import processes
  from skd_jax.training import loop

  # Where no step is to be finished, SIGTERM ends a run as Ctrl-C does.
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  except loop.Interrupted as stop:
    if processes.is_first():  # All have stopped.
      message = f"\n{stop}. The same command continues from there."
      print(message, file=sys.stderr)
    sys.exit(130)
  except KeyboardInterrupt:
    print("\nStopped. The same command continues.", file=sys.stderr)
    sys.exit(130)
  except (
    ValueError,
    FloatingPointError,
    OSError,  # A missing file, a full disk, a folder that is read-only.
    processes.FirstProcessError,
  ) as error:
    logging.debug("Where it was raised:", exc_info=True)
    print(f"\nError{processes.describe()}: {error}", file=sys.stderr)
    sys.exit(1)
  finally:
    signal.signal(signal.SIGTERM, before)


def refuse_flags_of_one_run() -> None:
  """Refuses what a comparison, which shares the flags, would not look at.

  Raises:
    ValueError: such a flag is given.
  """
  if _METHOD.value is not None:
    raise ValueError(
      f"--method={_METHOD.value}: must not be given; --methods names what is "
      "compared"
    )
  if _CONTINUE_WITH_CHANGES.value:
    raise ValueError(
      "--continue_with_changes: must not be given; what is compared has the "
      "same settings from its first step to its last"
    )
  for flag in (_COORDINATOR_ADDRESS, _NUM_PROCESSES, _PROCESS_ID):
    if flag.value is not None:
      raise ValueError(
        f"--{flag.name}={flag.value}: must not be given; a comparison runs in "
        "one process"
      )


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line, the config file included.

  Args:
    argv: the program's name and its arguments.

  Returns:
    The program's name.

  Raises:
    SystemExit: with one line for people, where a flag, the config file, its
      variant or a setting is not as it must be.
  """
  try:
    rest = flags.FLAGS(list(argv))
    _CONFIG.value.task  # noqa: B018 - a missing file is an error when read.
  except (AttributeError, KeyError) as error:
    # A name alone, or 'name' and on a second line the nearest one, quoted.
    reason = (
      str(error.args[0]).replace("\\n", "\n").split("\n")[-1].strip("'\"")
    )
    if "get_config" in reason:
      sys.exit("Error: the file of --config has no function get_config")
    sys.exit(f"Error: no such field in the config: {reason}")
  except (flags.Error, OSError, TypeError, ValueError) as error:
    sys.exit(f"Error: {_reason(str(error))}")
  if len(rest) > 1:
    sys.exit(f"Error: unknown arguments: {' '.join(rest[1:])}")
  return rest


def _reason(message: str) -> str:
  """The last line, which holds the cause: of a ValueError in the config file
  config_flags quotes the traceback, of a missing file the places it tried.
  """
  return message.strip().split("\n")[-1].strip().removeprefix("ValueError: ")


def run() -> None:
  """Runs main; bad flags are one line and exit code 1."""
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
  run()
