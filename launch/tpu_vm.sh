#!/usr/bin/env bash
# Runs a module on a Cloud TPU VM: queues for the slice, copies this checkout to
# every worker, runs there, shows the logs, fetches the results, deletes it all.
#
#   launch/tpu_vm.sh --name=NAME --zone=ZONE --project=PROJECT \
#     --type=v5litepod-8 --version=v2-alpha-tpuv5-lite \
#     --bucket=gs://BUCKET --spot -- skd_jax.main --config=configs/wmt.py
#
#   --name=NAME          of the slice, and of the folder of the results
#   --zone, --project    of Google Cloud
#   --type, --version    accelerator type, and runtime version of its VMs
#   --bucket=gs://BUCKET[/FOLDER]
#                        mounted as bucket/ on every worker; the results and
#                        checkpoints go to its FOLDER/NAME. A bucket with a
#                        hierarchical namespace renames checkpoints at once.
#                        Needed with --spot, and with more than one worker.
#   --spot               preemptible: after a preemption the slice is created
#                        again and the run continues from its checkpoints
#   --max-attempts=20    slices to create before giving up
#   --timeout=6h         how long to wait in the queue, each time
#   --poll=30            seconds between two looks at the state
#   --output=FOLDER      of the results here (workdir/NAME); must be new. With a
#                        bucket, the checkpoints stay there.
#   --dry-run            prints every command and runs none
#
# What follows -- is a module and its arguments, as for launch/run.sh; paths are
# those of the workers, relative to the checkout. More than one worker needs the
# key in the ssh agent: ssh-add ~/.ssh/google_compute_engine
set -euo pipefail

ROOT="$(cd "$(dirname "$0")/.." && pwd)"
name="" zone="" project="" type="" version="" bucket="" spot="" dry_run=""
output="" timeout=6h poll=30 max_attempts=20
step="" created="" active="" archive=""

die() {
  echo "Error: $*" >&2
  exit 1
}

check() {  # check FLAG VALUE PATTERN WHAT_IS_ALLOWED
  [ -n "$2" ] || die "--$1 is missing; launch/tpu_vm.sh --help lists the flags"
  [[ "$2" =~ ^$3$ ]] || die "--$1=$2: must be $4"
}

check_flags() {
  local word='[a-z0-9]([-a-z0-9.:]*[a-z0-9])?' words="small letters, digits, -"
  check name "$name" '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' "$words, from a letter"
  check zone "$zone" "$word" "$words"
  check project "$project" "$word" "$words"
  check type "$type" "$word" "$words, such as v5litepod-8"
  check version "$version" "$word" "$words, such as v2-alpha-tpuv5-lite"
  check timeout "$timeout" '[1-9][0-9]*[smhd]' "a duration such as 90m or 6h"
  check poll "$poll" '[0-9]+' "a number of seconds"
  check max-attempts "$max_attempts" '[1-9][0-9]*' "a number from 1"
  output="${output:-workdir/$name}"
  check output "$output" '[^-:][^:]*' "a folder without : in its name"
  [ ! -e "$output" ] || die "--output=$output: exists already"
  if [ -n "$bucket" ]; then
    check bucket "$bucket" 'gs://[a-z0-9][-a-z0-9._]+(/[-A-Za-z0-9._/]*)?' \
      "gs://BUCKET or gs://BUCKET/FOLDER"
    bucket="${bucket%/}"
  elif [ -n "$spot" ]; then
    die "--spot needs --bucket: what is on a preempted slice is lost"
  elif [[ "$type" =~ -([0-9]+)$ ]] && [ "${BASH_REMATCH[1]}" -gt 8 ]; then
    # Up to 8 (chips, or cores before v5e and in v5p) is one worker.
    die "--type=$type has several workers, which need --bucket to share"
  fi
  [ $# -gt 0 ] || die "a module is missing, as in -- skd_jax.main --config=..."
  [[ "$1" =~ ^[A-Za-z_][A-Za-z0-9_.]*$ ]] || die "$1: must be a Python module"
  local argument
  for argument in "$@"; do
    case "$argument" in
      --workdir | --workdir=* | -workdir | -workdir=*)
        die "$argument: the workdir is chosen by --bucket and --output"
        ;;
    esac
  done
}

quote() {  # The words as a shell reads them.
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

call() {  # Runs a command, or prints it so that it can be pasted.
  if [ -n "$dry_run" ]; then
    quote "$@"
  else
    "$@"
  fi
}

begin() {
  step="$1"
  if [ -n "$dry_run" ]; then echo "# $step"; else echo "== $step" >&2; fi
}

pack() {
  local list=(git -C "$ROOT" ls-files -z --cached --others --exclude-standard)
  local tar=(tar -C "$ROOT" --null -T - -czf "$archive")
  if [ -n "$dry_run" ]; then
    echo "$(quote "${list[@]}") | $(quote "${tar[@]}")"
  else
    "${list[@]}" | "${tar[@]}"
  fi
}

resources() {  # resources VERB ARGS: of the queued resource.
  local verb="$1"
  shift
  call gcloud compute tpus queued-resources "$verb" "$name" \
    --zone="$zone" --project="$project" "$@"
}

on_workers() {  # on_workers COMMAND ARGS: each word arrives as it is.
  call gcloud compute tpus tpu-vm ssh "$name" --worker=all --zone="$zone" \
    --project="$project" --ssh-flag="-o ServerAliveInterval=30" \
    --command="$(quote "$@")"
}

create() {
  local options=(--node-id="$name" --accelerator-type="$type"
    --runtime-version="$version" --valid-until-duration="$timeout")
  [ -z "$spot" ] || options+=(--spot)
  active=""
  [ -n "$dry_run" ] || created=yes
  resources create "${options[@]}"
}

wait_until_active() {
  local state last="" begun="$SECONDS" seconds="${timeout%?}"
  case "$timeout" in
    *m) seconds=$((seconds * 60)) ;;
    *h) seconds=$((seconds * 3600)) ;;
    *d) seconds=$((seconds * 86400)) ;;
  esac
  while true; do
    state="$(resources describe --format="value(state.state)")" || return
    if [ -n "$dry_run" ]; then
      echo "$state"
      return
    fi
    [ "$state" = "$last" ] || echo "$name is $state" >&2
    last="$state"
    case "$state" in
      ACTIVE)
        active=yes
        return 0
        ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        resources describe --format="yaml(state)" >&2 || true  # Says why.
        return 1
        ;;
    esac
    if [ $((SECONDS - begun)) -gt "$seconds" ]; then
      echo "$name is not ACTIVE after $timeout" >&2
      return 1
    fi
    sleep "$poll"
  done
}

set_up() {
  local arguments=()
  if [ -n "$bucket" ]; then
    local path="${bucket#gs://}/$name"
    arguments=("${path%%/*}" "${path#*/}")
  fi
  on_workers mkdir -p skd_jax || return
  on_workers tar -xzf skd_jax.tar.gz -C skd_jax || return
  on_workers skd_jax/launch/tpu_worker.sh setup \
    ${arguments[@]+"${arguments[@]}"}
}

fetch() {
  if [ -n "$bucket" ]; then
    call mkdir -p "$output" || return
    call gcloud storage rsync --recursive --exclude='^checkpoints/.*$' \
      "$bucket/$name" "$output"
  else
    call mkdir -p "$(dirname "$output")" || return
    call gcloud compute tpus tpu-vm scp "$name:skd_jax/workdir" "$output" \
      --recurse --worker=0 --zone="$zone" --project="$project"
  fi
}

attempt() {  # From the queue to the results; the status of what failed.
  begin "create the slice"
  create || return
  begin "wait until it is ACTIVE"
  wait_until_active || return
  begin "copy the checkout"
  call gcloud compute tpus tpu-vm scp "$archive" "$name:skd_jax.tar.gz" \
    --worker=all --zone="$zone" --project="$project" || return
  begin "set the workers up"
  set_up || return
  begin "run"
  on_workers skd_jax/launch/tpu_worker.sh run "$@" || return
  begin "fetch the results to $output"
  fetch
}

delete() {
  begin "delete the slice"
  resources delete --force --quiet
}

preempted() {  # preempted STATUS: was the slice taken away?
  # A lost connection or a stopped program may be seen before the new state.
  local state node tries=1
  case "$1" in 130 | 137 | 143 | 255) tries=10 ;; esac
  while true; do
    state="$(resources describe --format="value(state.state)")" || state=""
    case "$state" in
      SUSPENDING | SUSPENDED) return 0 ;;
      # What never was ACTIVE fails again: a quota, a wrong type.
      FAILED) [ -n "$active" ] && return 0 || return 1 ;;
    esac
    node="$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" \
      --project="$project" --format="value(state)")" || node=""
    case "$node" in PREEMPTED | TERMINATED) return 0 ;; esac
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep "$poll"
  done
}

stop() {  # stop STATUS: says what to do about what is left.
  trap - INT TERM
  dry_run=""
  echo "Stopped with exit code $1 at this step: $step." >&2
  if [ -n "$created" ]; then
    echo "The slice may still run, and cost money. To delete it:" >&2
    dry_run=yes resources delete --force --quiet >&2
    [ -z "$bucket" ] || echo "Results so far: $bucket/$name" >&2
  fi
  exit "$1"
}

main() {
  archive="${TMPDIR:-/tmp}/skd_jax.tar.gz"
  if [ -z "$dry_run" ]; then
    archive="$(mktemp -d)/skd_jax.tar.gz"
    trap 'rm -rf "$(dirname "$archive")"' EXIT
  fi
  trap 'stop 130' INT TERM
  begin "pack the checkout"
  pack || stop $?
  local attempts=1 status
  until attempt "$@"; do
    status=$?
    if [ -z "$spot" ] || ! preempted "$status"; then stop "$status"; fi
    echo "Preempted: slice $attempts of at most $max_attempts." >&2
    [ "$attempts" -lt "$max_attempts" ] || stop "$status"
    delete || stop $?
    attempts=$((attempts + 1))
  done
  delete || stop $?
  [ -n "$dry_run" ] || echo "Done: $output" >&2
}

while [ $# -gt 0 ]; do
  case "$1" in
    --help)
      sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p;}' "$0"
      exit 0
      ;;
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --bucket=*) bucket="${1#*=}" ;;
    --output=*) output="${1#*=}" ;;
    --timeout=*) timeout="${1#*=}" ;;
    --poll=*) poll="${1#*=}" ;;
    --max-attempts=*) max_attempts="${1#*=}" ;;
    --spot) spot=yes ;;
    --dry-run) dry_run=yes ;;
    --)
      shift
      break
      ;;
    *) die "$1: unknown; launch/tpu_vm.sh --help lists the flags" ;;
  esac
  shift
done
check_flags "$@"
main "$@"
