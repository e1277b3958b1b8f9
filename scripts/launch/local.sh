#!/usr/bin/env bash
# One run in several processes on this machine.
#
#   scripts/launch/local.sh -n 2 -- python -m tonsai_jax.train --config configs/small.py --workdir runs/two
#   scripts/launch/local.sh -n 4 -g 2 -- python -m tonsai_jax.train ...   # 8 GPUs, 2 for each process
#
#   -n N   processes
#   -g G   GPUs of each process: the first takes 0 .. G-1, the next G .. 2G-1; without -g nothing is said about GPUs
#   -w S   seconds that the other processes get to end after one has failed, before they are killed (default 60)
#
# The command must not need the keyboard. Each line of output begins with the number of its process. TERM, INT, HUP and USR1 are
# passed on to all processes. When one fails, the others get TERM, and KILL after S seconds. Exit code: 1 if a process ended with
# 1 (a person must look), else that of the first process that failed, else 0.
set -u
set -m # each command in a process group of its own: Ctrl-C reaches it once, through this script

processes=0 gpus=0 seconds=60
usage="usage: $0 -n N [-g GPUS_OF_EACH] [-w SECONDS] -- COMMAND ..."
while getopts "n:g:w:" option; do
  [[ $OPTARG =~ ^[0-9]+$ ]] || { echo "error: -$option $OPTARG: must be a whole number; $usage" >&2; exit 1; }
  case $option in
    n) processes=$OPTARG ;;
    g) gpus=$OPTARG ;;
    w) seconds=$OPTARG ;;
    *) echo "$usage" >&2; exit 1 ;;
  esac
done
shift $((OPTIND - 1))
if ((processes < 1 || $# == 0)); then
  echo "$usage" >&2
  exit 1
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 1
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$processes

pids=()
send() {
  for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null; done
}
for name in TERM INT HUP USR1; do
  # shellcheck disable=SC2064  # the name of now
  trap "send $name" "$name"
done

for ((id = 0; id < processes; id++)); do
  if ((gpus)); then
    CUDA_VISIBLE_DEVICES=$(seq -s , $((id * gpus)) $((id * gpus + gpus - 1)))
    export CUDA_VISIBLE_DEVICES
  fi
  # A line at a time: the processes write at the same time.
  JAX_PROCESS_ID=$id "$@" > >(trap "" INT TERM HUP USR1; exec sed -u "s/^/[$id] /") 2>&1 &
  pids[id]=$!
done

code=0 kill_at=0
while ((${#pids[@]})); do
  sleep 0.5 &
  wait $! # a signal ends `wait` at once, `sleep` alone would delay it
  for id in "${!pids[@]}"; do
    kill -0 "${pids[id]}" 2>/dev/null && continue
    wait "${pids[id]}"
    ended=$?
    kill -s KILL -- "-${pids[id]}" 2>/dev/null # helpers that it has left
    unset "pids[id]"
    ((ended == 0)) && continue
    if ((kill_at == 0)); then
      code=$ended kill_at=$((SECONDS + seconds))
      echo "process $id ended with exit code $ended; ending the others" >&2
      send TERM
    elif ((ended == 1)); then
      code=1
    fi
  done
  if ((kill_at && SECONDS >= kill_at)); then send KILL; fi
done
exit "$code"
