"""The fault suite: runs are stopped, their disk is full, their files damaged.

  python -m tests.faults [--quick] [--kills=50] [--seed=0]

  kill        SIGKILL at a random time, also during a save; the same command
              again must end with the results of an undisturbed run, bit for bit
  terminate   SIGTERM in each part of a run: exit code 130, and the same in the
              end
  kill one    of two processes: both end, and the same command as well has the
              results of two that nothing disturbed
  fill        the disk of a run is full, and is made larger step by step; the
              same command must say so, and at last have the same results. Left
              out where no tmpfs may be mounted
  damage      a file of a finished run is truncated, emptied, flipped by a bit,
              or by 100, or deleted; the same command again must name it, or
              have the same results
  flip        100 bits of each of the largest files, one at a time: the manifest
              must name the file each time
  model       a file of a model folder that another run takes is damaged, with
              the manifest of the folder and without; it must be named, or what
              is read be the same. Without a manifest, what is read may be
              another model: that is counted as unverified
  long        the demo is distilled for 2,000 steps: its memory must not grow in
              the second half of them

Anything else is a failure, and the exit code is 1. A line for each fault goes
to standard output as it is found.
"""
