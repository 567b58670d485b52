#!/bin/sh
# Every test. Those of single parts only compute, and most others wait for sockets and processes: so the former run beside
# them, at a low priority, and are told last.
set -u
cd "$(dirname "$0")/.."
mkdir -p var
log=var/unit-tests.log
# One thread each: several that wait for each other at a low priority take for ever.
OMP_NUM_THREADS=1 nice -n 15 .venv/bin/pytest -q -p no:cacheprovider tests/unit > $log 2>&1 &
parts=$!
trap 'kill $parts 2> /dev/null' INT TERM
.venv/bin/pytest -q --ignore=tests/unit
whole=$?
wait $parts
alone=$?
echo "tests/unit:"
if [ $alone = 0 ]; then tail -n 1 $log; else cat $log; fi
[ $whole = 0 ] && [ $alone = 0 ]
