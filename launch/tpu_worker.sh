#!/usr/bin/env bash
# What launch/tpu_vm.sh calls on every worker.
#
#   tpu_worker.sh setup [BUCKET FOLDER]   installs; with a bucket, mounts it as
#                                         bucket/ and puts the workdir in FOLDER
#   tpu_worker.sh run MODULE ARGS         runs, or joins the run in progress
set -euo pipefail
cd "$(dirname "$0")/.."

install_environment() {
  # The images of TPU VMs may have an older Python, or one without venv.
  if [ -x .venv/bin/python ]; then
    export PYTHON=.venv/bin/python
  elif ! python3 -c '
import sys, ensurepip, venv
sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python3 -m pip install --quiet --user 'uv>=0.5,<1'
    python3 -m uv venv --quiet --seed --python 3.12 .venv
    export PYTHON=.venv/bin/python
  fi
  launch/setup.sh tpu
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc
  local site=https://packages.cloud.google.com/apt
  curl -fsS "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq -y install gcsfuse
}

mount_bucket() {
  command -v gcsfuse >/dev/null || install_gcsfuse
  mkdir -p bucket
  # No cache of names: what one worker writes, the others see at once. The limit
  # is for buckets without a hierarchical namespace, where a folder is renamed
  # file by file.
  mountpoint -q bucket ||
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
      --rename-dir-limit=200000 "$1" bucket
  mkdir -p "bucket/$2"
  ln -sfn "bucket/$2" workdir
}

in_progress() { [ -e run.pid ] && kill -0 "$(cat run.pid)" 2>/dev/null; }

run() {
  # Apart from the connection: gcloud connects again when it is lost, and then
  # the run must not be started twice.
  if ! in_progress; then
    rm -f run.exit
    : >run.log
    # shellcheck disable=SC2016
    EXTRA=tpu setsid bash -c '
      launch/run.sh "$@" && status=0 || status=$?
      echo "$status" >run.exit' _ "$@" >>run.log 2>&1 </dev/null &
    echo $! >run.pid
  fi
  tail -n +1 -f -s 0.2 --pid="$(cat run.pid)" run.log
  if [ ! -e run.exit ]; then
    echo "The run was killed." >&2
    exit 137
  fi
  exit "$(cat run.exit)"
}

verb="${1:-}"
[ $# -eq 0 ] || shift
case "$verb" in
  setup)
    [ $# -eq 0 ] || mount_bucket "$1" "$2"
    install_environment
    ;;
  run) run "$@" ;;
  *)
    echo "Error: '$verb': must be setup or run" >&2
    exit 1
    ;;
esac
