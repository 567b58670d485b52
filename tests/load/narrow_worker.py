"""A model server that answers so many requests at a time, each in so many seconds, and lets all others queue.

Run it as `python -m tests.load.narrow_worker PORT MODEL SLOTS SECONDS`.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13},
}


def application(model: str, slots: int, seconds: float) -> web.Application:
    free = asyncio.Semaphore(slots)

    async def answer(_: web.Request) -> web.Response:
        async with free:
            await asyncio.sleep(seconds)
        return web.json_response(ANSWER | {"model": model})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": model, "object": "model"}]})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text="vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n")

    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/chat/completions", answer),
            web.get("/v1/models", models),
            web.get("/metrics", metrics),
        ]
    )
    return app


if __name__ == "__main__":
    port, model, slots, seconds = sys.argv[1:]
    web.run_app(
        application(model, int(slots), float(seconds)), host="127.0.0.1", port=int(port), print=None, access_log=None
    )
