"""Completions: a call becomes a request, the gateway answers it, the answer goes back as it comes."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from app.api.answer import AnswerResponse
from app.api.call import Call, call_of
from app.api.parsing import parse_chat, parse_completion
from app.api.policy import needs
from app.domain.request import Request

routes = APIRouter()


@routes.post("/v1/chat/completions", name="chat")
@needs("inference")
async def chat_completions(http_request: HttpRequest) -> AnswerResponse:
    """Answer a conversation."""
    call = call_of(http_request)
    return await _answer(call, parse_chat(await call.json(), call))


@routes.post("/v1/completions", name="completion")
@needs("inference")
async def completions(http_request: HttpRequest) -> AnswerResponse:
    """Continue a text."""
    call = call_of(http_request)
    return await _answer(call, parse_completion(await call.json(), call))


async def _answer(call: Call, request: Request) -> AnswerResponse:
    async with call.while_there():
        call.served = await call.gateway.complete(request, call.key)
    return AnswerResponse(call.served)
