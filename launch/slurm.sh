#!/usr/bin/env bash
# Runs a module on a SLURM cluster with GPUs, on one node or on many:
#
#   sbatch --nodes=2 launch/slurm.sh skd_jax.main --config=configs/wmt.py
#
# Called in the checkout, which all nodes share. One process per GPU, as JAX
# expects of SLURM, from which it learns about the other processes; so the two
# numbers below must be equal. Near the time limit the run saves and the job is
# queued again; after a preemption SLURM does that. Options of sbatch on the
# command line come before those below.
#
#SBATCH --job-name=skd_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --output=skd_jax-%j.log
set -euo pipefail

die() {
  echo "Error: $*" >&2
  exit 1
}

[ -n "${SLURM_JOB_ID:-}" ] || die "call it as: sbatch launch/slurm.sh MODULE ..."
[ $# -gt 0 ] || die "a module is missing, such as skd_jax.main"
# SLURM runs a copy of this file, from elsewhere.
cd "$SLURM_SUBMIT_DIR"
[ -x launch/run.sh ] || die "$SLURM_SUBMIT_DIR: submit from the checkout"
if [ "${SLURM_NTASKS_PER_NODE:-}" != "${SLURM_GPUS_ON_NODE:-}" ]; then
  die "--ntasks-per-node=${SLURM_NTASKS_PER_NODE:-} must be the GPUs of a node," \
    "${SLURM_GPUS_ON_NODE:-unknown}"
fi

export EXTRA="${EXTRA:-cuda}"
launch/setup.sh "$EXTRA" # Here, so that the processes find it done.

# A process that ends must not kill one that still saves.
srun --kill-on-bad-exit=0 launch/run.sh "$@" &
processes=$!
near_the_limit=""
# srun hands the signal on; the run saves and ends with 130.
trap 'near_the_limit=yes; kill -TERM "$processes"' USR1
# On a preemption SLURM signals the processes by itself; this script waits.
trap : TERM
while kill -0 "$processes" 2>/dev/null; do
  wait "$processes" || true  # A signal ends the wait, not the processes.
done
wait "$processes" && status=0 || status=$?
if [ -n "$near_the_limit" ]; then
  case "$status" in
    130 | 143)
      scontrol requeue "$SLURM_JOB_ID"
      exit 0
      ;;
  esac
fi
exit "$status"
