#!/usr/bin/env bash
# Runs a command again when it ends with a fault that may be gone at the next try, and only then.
#
#   scripts/launch/restart.sh -- python -m tonsai_jax.train --config configs/small.py --workdir runs/mine
#   scripts/launch/restart.sh -- scripts/launch/local.sh -n 2 -- python -m tonsai_jax.train ...
#
#   -n N   tries in a row that may fail (default 10); a try that lasted half an hour starts the count again
#   -s S   seconds before the second try (default 10); doubled each time, up to 10 minutes
#   -f F   a file that is there when the work is complete, such as WORKDIR/complete.json: where the last exit code is 0 and the
#          file is not there, the run was stopped after it had saved, and this script ends with 75
#
# Exit code   what it means                                            what happens
#   0         complete, or saved because something asked to stop       ends
#   75        a host died, or hung, or the storage failed              again
#   128 + N   killed by signal N: out of memory, a crash, a lost node  again; not for HUP, INT, USR1, TERM: someone asked to stop
#   others    a mistake in the config, damaged data, a bug             ends: a person must look
#
# TERM, INT, HUP and USR1 are passed on to the command, which saves; after them it is not started again.
set -u
set -m # each command in a process group of its own: Ctrl-C reaches it once, through this script

tries=10 pause=10 complete="" healthy=1800 longest=600
usage="usage: $0 [-n TRIES] [-s SECONDS] [-f FILE] -- COMMAND ..."
while getopts "n:s:f:" option; do
  if [[ $option == [ns] && ! $OPTARG =~ ^[0-9]+$ ]]; then
    echo "error: -$option $OPTARG: must be a whole number; $usage" >&2
    exit 1
  fi
  case $option in
    n) tries=$OPTARG ;;
    s) pause=$OPTARG ;;
    f) complete=$OPTARG ;;
    *) echo "$usage" >&2; exit 1 ;;
  esac
done
shift $((OPTIND - 1))
if (($# == 0)); then
  echo "$usage" >&2
  exit 1
fi

child="" asked=""
for name in TERM INT HUP USR1; do
  # shellcheck disable=SC2064  # the name of now
  trap "asked=$name; [[ \$child ]] && kill -s $name \$child 2>/dev/null" "$name"
done

# Waits for a process to end, however many signals interrupt the wait; returns its exit code.
outlast() {
  wait "$1"
  local code=$?
  while kill -0 "$1" 2>/dev/null; do
    wait "$1"
    code=$?
  done
  return "$code"
}

failed=0 seconds=$pause
while true; do
  began=$SECONDS
  "$@" &
  child=$!
  outlast "$child"
  code=$?
  child=""
  if ((code == 0)) && [[ $complete && ! -e $complete ]]; then
    echo "restart.sh: saved, and not complete (no $complete): ending with 75" >&2
    exit 75
  fi
  case $code in
    0 | 129 | 130 | 138 | 143) asked=yes ;;
  esac
  if [[ $asked ]] || ((code != 75 && code <= 128)); then exit "$code"; fi
  if ((SECONDS - began >= healthy)); then failed=0 seconds=$pause; fi
  failed=$((failed + 1))
  if ((failed >= tries)); then
    echo "restart.sh: exit code $code; $failed tries in a row have failed, a person must look" >&2
    exit "$code"
  fi
  echo "restart.sh: exit code $code; try $((failed + 1)) of $tries in $seconds s" >&2
  sleep "$seconds" &
  child=$!
  outlast "$child" # a signal ends the pause
  child=""
  if [[ $asked ]]; then exit "$code"; fi
  seconds=$((seconds * 2 < longest ? seconds * 2 : longest))
done
