#!/bin/sh
# Every test. Those that only compute run beside the others, most of which wait for sockets and processes: at a low
# priority, and told last. At most three of either that failed run once more when nothing else does: a machine that was
# too busy then differs from a fault. Both runs are told.
set -u
cd "$(dirname "$0")/.."
mkdir -p var
log=var/tests-that-compute.log
computing="tests/unit tests/artifact tests/fuzz tests/integration/app/test_openapi.py
    tests/integration/test_collect.py tests/integration/test_compose_rehearsal.py
    tests/integration/test_containers.py tests/integration/test_dashboards.py tests/integration/test_image.py
    tests/integration/cli/test_adapt.py tests/integration/cli/test_evaluate.py tests/integration/cli/test_init.py
    tests/integration/cli/test_onboard_live.py tests/integration/cli/test_onboard_replay.py
    tests/integration/cli/test_savings_report.py tests/integration/cli/test_serve_check_explain.py
    tests/integration/cli/test_train_and_evaluate.py"
others=$(printf -- '--ignore=%s ' $computing)

# One thread each for linear algebra: several that wait for each other beside other work take for ever.
export OMP_NUM_THREADS=1
# Gateways and commands start by the hundred: each would compile the program anew.
unset PYTHONDONTWRITEBYTECODE

tests() {
    kept=$1
    shift
    .venv/bin/pytest -q -rs -o cache_dir=".pytest_cache/$kept" "$@"
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

# shellcheck disable=SC2086  # lists of paths without spaces
{
    nice -n 15 .venv/bin/pytest -q -rs -o cache_dir=.pytest_cache/computing --cache-clear $computing > $log 2>&1 &
    computed=$!
    trap 'kill $computed 2> /dev/null' INT TERM
    tests others --cache-clear $others
    other=$?
    wait $computed
    alone=$?
    again_if_few $other others $others
    other=$?
    echo "tests that compute:"
    if [ $alone = 0 ]; then sed -n '/^SKIPPED/p; $p' $log; else cat $log; fi
    again_if_few $alone computing $computing
    alone=$?
}
[ $other = 0 ] && [ $alone = 0 ]
