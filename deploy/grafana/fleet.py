"""The dashboard *Fleet and gateway*: requests, errors, times, the gateway's own work, workers, money, keys, stores."""

from __future__ import annotations

from deploy.grafana.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    quantile,
    rate,
    total,
)

REQUESTS = "thalamus_requests_total"
MODEL = 'model=~"$model"'


def _worst(metric: str, by: str) -> str:
    return f"max by ({by}) ({metric})"


GLANCE = (
    Panel(
        "Gateways up",
        "How many gateways answer when they are asked for their metrics?",
        "start the one that is missing; its log says why it ended.",
        (Query('sum(up{job="thalamus"})'),),
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Workers up",
        "How many vLLM workers answer when they are asked for their metrics?",
        "start the one that is missing; the replicas below say which.",
        (Query('sum(up{job="vllm"})'),),
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Requests",
        "How many requests come per second?",
        "none: callers cannot reach the gateway, or nobody asks.",
        (Query(rate(REQUESTS)),),
        unit="reqps",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Server errors",
        "Which share of the requests fails through no fault of its caller?",
        "see 'Requests by outcome'. internal: a bug; no_backend and timeouts: workers; budget_unavailable: the store.",
        (Query("thalamus:server_errors:ratio_rate5m"),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Replicas in",
        "Which share of the replicas takes requests?",
        "restart those that are out; replica.ejected in the log says why.",
        (Query("avg(min by (backend, replica) (thalamus_replica_up))"),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Overhead, p99",
        "How long does the gateway itself take, at most for 99 of 100 requests?",
        "above 50 ms: give it a core or another process; see the stages below.",
        (Query('thalamus:overhead_seconds:p99_rate5m{stage="total"}'),),
        unit="s",
        kind="number",
        width=4,
        height=4,
    ),
)

RED = (
    Panel(
        "Requests by outcome",
        "How many requests come, and how do they end?",
        "cancelled: callers lose patience; 429 codes: a key's limits; 5xx codes: see the workers.",
        (Query(rate(REQUESTS, "outcome"), "{{outcome}}"),),
        unit="reqps",
        kind="stacked",
        colors=(("ok", "green"),),
    ),
    Panel(
        "Requests by operation",
        "What do callers ask for?",
        "an operation that stops has a client that stopped.",
        (Query(rate(REQUESTS, "operation"), "{{operation}}"),),
        unit="reqps",
        kind="stacked",
    ),
    Panel(
        "Duration",
        "How long does a whole request take: the middle one, 19 of 20, 99 of 100?",
        "long with a short time to the first token is long answers, not trouble.",
        tuple(
            Query(quantile(share, "thalamus_request_duration_seconds", ""), f"p{share * 100:g}")
            for share in (0.5, 0.95, 0.99)
        ),
        unit="s",
    ),
    Panel(
        "Time to the first piece, p95",
        "How long do callers wait for an answer to begin, by model?",
        "growing: the model's workers queue; add one, or give the profile a weight on latency.",
        (Query(quantile(0.95, "thalamus_ttft_seconds", "model", MODEL), "{{model}}"),),
        unit="s",
    ),
    Panel(
        "In flight",
        "How much is going on at once, and how many tasks does that take?",
        "tasks that grow while requests do not are a leak: report it; requests near limits.in_flight: add a gateway.",
        (
            Query("sum(thalamus_requests_in_flight)", "requests"),
            Query("sum(thalamus_event_loop_tasks)", "tasks"),
        ),
    ),
    Panel(
        "How full it is",
        "How near is the gateway to turning requests away, and does it?",
        "places: workers are slow or few; strain: give it a core; memory: raise the limit.",
        (
            Query(_worst("thalamus_pressure", "reading"), "{{reading}}"),
            Query(rate("thalamus_shed_total", "priority"), "turned away per second, {{priority}}"),
        ),
    ),
    Panel(
        "Overhead by stage, p99",
        "Where does the gateway's own time go?",
        "decision: the predictor lacks CPU; admission: the store is slow; total far above both: the loop is late.",
        (Query(quantile(0.99, "thalamus_overhead_seconds", "stage"), "{{stage}}"),),
        unit="s",
    ),
    Panel(
        "Overhead by stage, middle",
        "And for the middle request?",
        "when the middle moves, something is slow for all: compare with the version before.",
        (Query(quantile(0.5, "thalamus_overhead_seconds", "stage"), "{{stage}}"),),
        unit="s",
    ),
    Panel(
        "Changes and troubles of the process",
        "Was the configuration changed or refused, did a process die, was the log lost?",
        "config.rejected and worker.died in the log say why; a reader of the log that stalls loses lines.",
        (
            Query("sum(increase(thalamus_config_applied_total[$__rate_interval]))", "configuration applied"),
            Query("sum(increase(thalamus_config_rejected_total[$__rate_interval]))", "configuration refused"),
            Query("sum(increase(thalamus_worker_deaths_total[$__rate_interval]))", "process died"),
            Query("sum(increase(thalamus_log_lines_dropped_total[$__rate_interval]))", "log lines lost"),
        ),
    ),
)

FLEET = (
    Panel(
        "Replicas",
        "How is each replica: is it in, what does it do, and is it slow beside its peers?",
        "up 0: restart it; waiting for minutes: add one; times slower above 1: compare its machine with the others'.",
        (
            Query("min by (replica) (thalamus_replica_up)", "up", "short"),
            Query("sum by (replica) (thalamus_replica_in_flight)", "ours in flight", "short"),
            Query("max by (replica) (thalamus_replica_waiting)", "waiting", "short"),
            Query("max by (replica) (thalamus_replica_times_slower)", "times slower", "short"),
        ),
        kind="table",
        width=12,
        by="replica",
    ),
    Panel(
        "Out, and why",
        "Which backends lose replicas, and do probes bring them back?",
        "probes that fail for minutes: the process may live, but its engine does not answer; restart it.",
        (
            Query(_worst("thalamus_replicas_out", "backend"), "{{backend}} out now"),
            Query(rate("thalamus_ejections_total", "backend"), "{{backend}} ejections per second"),
            Query(rate("thalamus_probes_total", "backend, outcome"), "{{backend}} probes {{outcome}}"),
        ),
        width=12,
    ),
    Panel(
        "Attempts by how they began",
        "How many exchanges with backends does a request take, and how do they begin?",
        "attempts over requests above 1.1: a backend is failing; its errors are beside this.",
        (Query(rate("thalamus_attempts_total", "outcome", MODEL), "{{outcome}}"),),
        unit="reqps",
        kind="stacked",
        colors=(("ok", "green"),),
    ),
    Panel(
        "Errors of backends",
        "Which backend fails, and with what?",
        "no_backend: down or full; upstream_timeout: hung; bad_upstream: see its log; rate_limit_exceeded: its quota.",
        (Query(rate("thalamus_upstream_errors_total", "backend, code"), "{{backend}} {{code}}"),),
        unit="reqps",
    ),
    Panel(
        "Second attempts and mended streams",
        "Does hedging help, and do streams end without their [DONE]?",
        "nearly all lost: turn hedging off; mended streams: a proxy between gateway and worker cuts them.",
        (
            Query(f"sum by (outcome) (rate(thalamus_hedges_total{{{MODEL}}}[$__rate_interval]))", "hedge {{outcome}}"),
            Query(rate("thalamus_done_added_total", "backend"), "{{backend}} [DONE] added"),
        ),
        unit="reqps",
    ),
)

WORKERS = (
    Panel(
        "vLLM: running and waiting",
        "How many requests run and wait in each worker, of all its clients?",
        "waiting for minutes: the worker is full; add a replica or lower limits.in_flight.",
        (
            Query("sum by (instance) (vllm:num_requests_running)", "{{instance}} running"),
            Query("sum by (instance) (vllm:num_requests_waiting)", "{{instance}} waiting"),
        ),
        width=6,
    ),
    Panel(
        "vLLM: cache in use",
        "How full is the memory for what requests have read and written?",
        "near 1 with preemptions: shorten contexts, lower max_num_seqs, or give the worker more memory.",
        (Query("max by (instance) (vllm:kv_cache_usage_perc)", "{{instance}}"),),
        unit="percentunit",
        maximum=1,
        width=6,
    ),
    Panel(
        "vLLM: preemptions",
        "How often is a request interrupted for want of memory, and computed again?",
        "any that last: the cache beside this is full; shorten contexts or lower max_num_seqs.",
        (Query("sum by (instance) (rate(vllm:num_preemptions_total[$__rate_interval]))", "{{instance}}"),),
        unit="reqps",
        width=6,
    ),
    Panel(
        "vLLM: prefix cache",
        "Which share of what is read was read before, and need not be computed again?",
        "low with conversations: their requests are spread over replicas; send session_id.",
        (
            Query(
                "sum by (instance) (rate(vllm:prefix_cache_hits_total[$__rate_interval]))"
                " / sum by (instance) (rate(vllm:prefix_cache_queries_total[$__rate_interval]))",
                "{{instance}}",
            ),
        ),
        unit="percentunit",
        maximum=1,
        width=6,
    ),
    Panel(
        "vLLM: tokens per second",
        "How much do the workers read and write?",
        "fewer tokens with as many requests: a machine is slower than it was.",
        (
            Query("sum by (instance) (rate(vllm:prompt_tokens_total[$__rate_interval]))", "{{instance}} read"),
            Query("sum by (instance) (rate(vllm:generation_tokens_total[$__rate_interval]))", "{{instance}} written"),
        ),
    ),
    Panel(
        "vLLM: time to the first token, p95",
        "How long does a worker take to begin, without the gateway?",
        "as long as the gateway's: it is the worker; shorter: it is the gateway or the network.",
        (Query(quantile(0.95, "vllm:time_to_first_token_seconds", "instance"), "{{instance}}"),),
        unit="s",
    ),
    Panel(
        "vLLM: whole requests, p95",
        "How long does a request take in a worker?",
        "compare with the queue: long and no queue means long answers or a slow machine.",
        (Query(quantile(0.95, "vllm:e2e_request_latency_seconds", "instance"), "{{instance}}"),),
        unit="s",
    ),
)

MONEY = (
    Panel(
        "Money by key",
        "Who spends, in dollars per hour?",
        "a key that spends much more than last week: talk to its owner, and set a budget.",
        (Query(f"3600 * {rate('thalamus_key_cost_usd_total', 'key')}", "{{key}}"),),
        unit="currencyUSD",
        kind="stacked",
    ),
    Panel(
        "Requests by key",
        "Who asks, and how does it end for them?",
        "429 codes: the key is over a limit or its budget; raise it, or talk to its owner.",
        (Query(total("thalamus_key_requests_total", "key, outcome"), "{{key}} {{outcome}}"),),
        decimals=0,
        kind="bars",
    ),
    Panel(
        "Budgets",
        "What may each key spend, and what is left of it?",
        "left near 0: callers hear 429 until the period ends, unless it is soft; raise the budget, or tell them.",
        (
            Query("max by (key) (thalamus_key_budget_usd)", "budget", "currencyUSD"),
            Query("min by (key) (thalamus_key_budget_left_usd)", "left", "currencyUSD"),
            Query("min by (key) (thalamus_key_budget_left_usd / thalamus_key_budget_usd)", "share left", "percentunit"),
        ),
        kind="table",
        by="key",
    ),
    Panel(
        "Stores",
        "Can what each feature needs of the store be had?",
        "0: Redis is down or slow; which features go on without it is in the runbook.",
        (Query("min by (feature) (thalamus_store_up)", "{{feature}}"),),
        kind="bars",
        maximum=1,
    ),
    Panel(
        "Journal",
        "Do records reach the kept store, and are any lost or left open by a crash?",
        "waiting that grows: the store is down or slow; lost: it was away for too long.",
        (
            Query("sum(thalamus_journal_spool_bytes) / 1024", "KiB in the spool"),
            Query("max(thalamus_journal_stopped)", "cannot be written"),
            Query("sum(increase(thalamus_journal_rows_dropped_total[$__rate_interval]))", "lost"),
            Query("sum(increase(thalamus_journal_interrupted_total[$__rate_interval]))", "interrupted"),
        ),
        width=16,
    ),
)

DASHBOARD = Dashboard(
    "thalamus-fleet",
    "Thalamus / Fleet and gateway",
    "Replicas, queues, vLLM's own metrics, requests, errors and times, overhead by stage, money and keys, stores.",
    ("model",),
    (
        Row("At a glance", GLANCE),
        Row("Requests, errors, times", RED),
        Row("Replicas", FLEET),
        Row("vLLM", WORKERS),
        Row("Money, keys and stores", MONEY),
    ),
)
