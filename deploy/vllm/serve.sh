#!/bin/sh
# Start one unmodified vLLM worker on this machine's CPU, in the foreground.
#
#   deploy/vllm/serve.sh base PORT [vllm flags]    smollm2-135m and its seven experts, as LoRA modules of one worker
#   deploy/vllm/serve.sh small PORT [vllm flags]   smollm2-71m
#   deploy/vllm/serve.sh NAME PORT [vllm flags]    any folder in var/models, under its own name
#
# HOST (127.0.0.1), VLLM (.venv-vllm/bin/vllm, else the one on PATH) and OMP_NUM_THREADS (1) may be set. Ready when
# /health is 200, after 15 to 40 s. SIGTERM drains and takes the engine's process down as well: 3 to 16 s until it is gone.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
kind=$1 port=$2
shift 2

adapters=$root/deploy/demo/adapters
case $kind in
base)
    name=smollm2-135m
    for adapter in "$adapters"/*/; do set -- "$(basename "$adapter")=${adapter%/}" "$@"; done
    # Wrapping only q and v costs 1.4 times the base's CPU a token, wrapping everything 3.2 times.
    set -- --enable-lora --max-loras 8 --max-lora-rank 8 --lora-target-modules q_proj v_proj --lora-modules "$@" ;;
small) name=smollm2-71m ;;
*) name=$kind ;;
esac
model=$root/var/models/$name
[ -f "$model/config.json" ] || { echo "$model is missing: run .venv-vllm/bin/python deploy/demo/build_models.py" >&2; exit 1; }

vllm=${VLLM:-$root/.venv-vllm/bin/vllm}
[ -x "$vllm" ] || vllm=vllm

# Nothing leaves the machine. Without TORCH_COMPILE_DISABLE the first request with logprobs waits for a compiler; without
# nobind every worker pins itself to the same core.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export TORCH_COMPILE_DISABLE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_OMP_THREADS_BIND=nobind
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false

# Processors that cannot multiply bfloat16 convert each number: 16 requests at once take 3.4 times as long as in float32.
if grep -q -w -e avx512_bf16 -e amx_bf16 -e bf16 /proc/cpuinfo; then dtype=bfloat16 cache=512M; else dtype=float32 cache=1G; fi

# A token of the 30-layer base takes 23 kB in bfloat16, so 512 MB hold 22,000 of them: 32 requests of 700 tokens.
# Blocks of 32 are the smallest that vLLM's CPU attention takes: turns of a conversation and system prompts of 32 tokens
# and more are found in the prefix cache; the chat template's own system prompt, 24 tokens long, is not.
exec "$vllm" serve "$model" --served-model-name "$name" --host "${HOST:-127.0.0.1}" --port "$port" \
    --dtype "$dtype" --max-model-len 2048 --enforce-eager --distributed-executor-backend uni \
    --kv-cache-memory-bytes "$cache" --block-size 32 --max-num-seqs 32 --max-num-queued-reqs 1024 \
    --enable-auto-tool-choice --tool-call-parser hermes \
    --enable-request-id-headers --enable-prompt-tokens-details --enable-server-load-tracking \
    --shutdown-timeout 10 --disable-uvicorn-access-log "$@"
