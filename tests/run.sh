#!/bin/sh
# Every test. Those of single parts only compute, and most others wait for sockets and processes: so the former run beside
# them, at a low priority, and are told last. At most three of either that failed run once more when nothing else does: a
# machine that was too busy then differs from a fault. Both runs are told.
set -u
cd "$(dirname "$0")/.."
mkdir -p var
log=var/unit-tests.log

tests() {
    kept=$1
    shift
    .venv/bin/pytest -q -o cache_dir=".pytest_cache/$kept" "$@"
}

# Its own status if many failed or something else went wrong; else that of the second run.
again_if_few() {
    status=$1 kept=$2
    shift 2
    [ "$status" = 1 ] || return "$status"
    failed=$(.venv/bin/python -c "import json; print(len(json.load(open('.pytest_cache/$kept/v/cache/lastfailed'))))")
    [ "$failed" -le 3 ] || return 1
    echo "$failed failed beside other tests, and once more alone:"
    tests "$kept" --last-failed "$@"
}

# One thread each: several that wait for each other at a low priority take for ever.
OMP_NUM_THREADS=1 nice -n 15 .venv/bin/pytest -q -o cache_dir=.pytest_cache/parts --cache-clear tests/unit > $log 2>&1 &
parts=$!
trap 'kill $parts 2> /dev/null' INT TERM
tests whole --cache-clear --ignore=tests/unit
whole=$?
wait $parts
alone=$?
again_if_few $whole whole --ignore=tests/unit
whole=$?
echo "tests/unit:"
if [ $alone = 0 ]; then tail -n 1 $log; else cat $log; fi
again_if_few $alone parts tests/unit
alone=$?
[ $whole = 0 ] && [ $alone = 0 ]
