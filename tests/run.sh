#!/bin/sh
# Every test, in three runs side by side. In front are those that wait for sockets and processes, many of which measure
# time. At a low priority beside them, and told last: those of single parts, and what trains, evaluates and tries the
# API's document; and those of whole programs, such as images, commands and models. At most three of a run that failed
# run once more when nothing else does: a machine that was too busy then differs from a fault. Both times are told.
set -u
cd "$(dirname "$0")/.."
mkdir -p var
parts="tests/unit tests/artifact tests/fuzz tests/integration/app/test_openapi.py tests/integration/cli/test_adapt.py
    tests/integration/cli/test_evaluate.py tests/integration/cli/test_train_and_evaluate.py"
# Real workers take half of the memory and answer faster when less runs beside them, so they come last.
programs="tests/integration/test_image.py tests/integration/test_compose_rehearsal.py
    tests/integration/test_containers.py tests/integration/test_alert_edges.py tests/integration/test_collect.py
    tests/integration/test_collect_judge.py tests/integration/cli/test_init.py
    tests/integration/cli/test_onboard_live.py tests/integration/cli/test_onboard_replay.py
    tests/integration/cli/test_savings_report.py tests/integration/cli/test_serve_check_explain.py
    tests/integration/test_dashboards.py tests/integration/test_demo.py tests/integration/test_worker_dies.py
    tests/integration/test_worker_faults.py tests/contract/test_real_workers.py"
others=$(printf -- '--ignore=%s ' $parts $programs)

# One thread each for linear algebra: several that wait for each other beside other work take for ever.
export OMP_NUM_THREADS=1
# Gateways and commands start by the hundred: each would compile the program anew.
unset PYTHONDONTWRITEBYTECODE

tests() {  # name of the run, what it runs
    kept=$1
    shift
    .venv/bin/pytest -q -rs -o cache_dir=".pytest_cache/$kept" "$@"
}

beside() {  # name of the run, what it runs: in the background, into a log
    kept=$1
    shift
    nice -n 15 .venv/bin/pytest -q -rs -o cache_dir=".pytest_cache/$kept" --cache-clear "$@" > "var/tests-of-$kept.log" 2>&1 &
}

# Its own status if many failed or something else went wrong; else that of the second run.
again_if_few() {  # status, name of the run, what it runs
    status=$1 kept=$2
    shift 2
    [ "$status" = 1 ] || return "$status"
    failed=$(.venv/bin/python -c "import json; print(len(json.load(open('.pytest_cache/$kept/v/cache/lastfailed'))))")
    [ "$failed" -le 3 ] || return 1
    echo "$failed failed beside other tests, and once more alone:"
    tests "$kept" --last-failed "$@"
}

told() {  # status, name of the run, what it runs
    echo "tests of $2:"
    if [ "$1" = 0 ]; then sed -n '/^SKIPPED/p; $p' "var/tests-of-$2.log"; else cat "var/tests-of-$2.log"; fi
    again_if_few "$@"
}

# shellcheck disable=SC2086  # lists of paths without spaces
{
    beside parts $parts
    of_parts=$!
    beside programs $programs
    of_programs=$!
    trap 'kill $of_parts $of_programs 2> /dev/null' INT TERM
    tests others --cache-clear $others
    other=$?
    wait $of_parts
    part=$?
    wait $of_programs
    program=$?
    again_if_few $other others $others
    other=$?
    told $part parts $parts
    part=$?
    told $program programs $programs
    program=$?
}
[ $other = 0 ] && [ $part = 0 ] && [ $program = 0 ]
