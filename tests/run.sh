#!/bin/sh
# Every test. Those of single parts only compute, and most others wait for sockets and processes: so the former run beside
# them, at a low priority, and are told last. Of the others, at most three that failed run once more when nothing else does:
# a machine that was too busy then differs from a fault. Both runs are told.
set -u
cd "$(dirname "$0")/.."
mkdir -p var
log=var/unit-tests.log
again_up_to=3
# One thread each: several that wait for each other at a low priority take for ever.
OMP_NUM_THREADS=1 nice -n 15 .venv/bin/pytest -q -p no:cacheprovider tests/unit > $log 2>&1 &
parts=$!
trap 'kill $parts 2> /dev/null' INT TERM
.venv/bin/pytest -q --cache-clear --ignore=tests/unit
whole=$?
wait $parts
alone=$?
if [ $whole = 1 ]; then
    failed=$(.venv/bin/python -c 'import json; print(len(json.load(open(".pytest_cache/v/cache/lastfailed"))))')
    if [ "$failed" -le $again_up_to ]; then
        echo "$failed failed beside the tests of parts, and once more alone:"
        .venv/bin/pytest -q --last-failed --ignore=tests/unit
        whole=$?
    fi
fi
echo "tests/unit:"
if [ $alone = 0 ]; then tail -n 1 $log; else cat $log; fi
[ $whole = 0 ] && [ $alone = 0 ]
