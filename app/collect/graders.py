"""Grades collected answers: the rules of `router_models.aptitude`, or a command of the operator's.

A command is run once per answer. It reads one JSON object on its standard input (prompt, messages, reference, answer,
task) and prints a number in [0, 1]. It is not told which model answered. What it says is kept in its log beside a
digest of what it read and of its files, so an interrupted grading goes on where it was, and a corrected script or
reference grades anew. What a model thought before it answered is not graded, and an answer that cannot be graded is a
missing outcome, never a zero.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.collect.plan import Key, Prompt
from app.collect.progress import Progress, Reply
from app.collect.thoughts import spoken
from app.collect.together import one_reason
from app.errors import UsageError
from router_models.aptitude import GRADERS, GraderError, grade, grade_all, grade_each

COMMAND = "command"
# Prompts with this one get the score of `app.collect.judge`, not one of this file.
JUDGE = "judge"
_WITHOUT_REFERENCE = (COMMAND, JUDGE)
# Answers graded between two looks at the progress bar.
CHUNK = 200
MAX_OUTPUT_BYTES = 64 << 10
CUT_IN_THOUGHT = "cut while it thought: raise max_tokens"


@dataclass(frozen=True)
class Command:
    """A program that grades, and its limits."""

    argv: tuple[str, ...]
    timeout_s: float = 60.0
    concurrency: int = 4

    def digest(self) -> bytes:
        """Changes with the command line, and with the content of every file that is named in it."""
        whole = hashlib.sha256()
        for word in self.argv:
            whole.update(f"{len(word)} {word}".encode(errors="surrogatepass"))
            # A file that cannot be read is the command's to complain about.
            with contextlib.suppress(OSError, ValueError):
                if Path(word).is_file():
                    whole.update(hashlib.sha256(Path(word).read_bytes()).digest())
        return whole.digest()


class GradeFailed(Exception):
    """The command gave no score; the message is the reason."""


@dataclass
class Graded:
    """Scores of the answers, and why some have none; and what a judge said, where there was one."""

    scores: dict[Key, float] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)
    judged_scores: dict[Key, float] = field(default_factory=dict)
    judged_agrees: dict[Key, bool] = field(default_factory=dict)


def with_graders(
    prompts: Sequence[Prompt], default: str | None, command: Command | None, *, judge: bool = False
) -> tuple[Prompt, ...]:
    """The prompts, each with a grader that exists and can use its reference: better known before money is spent.

    Raises:
        UsageError: naming the first prompt for which that is not so.
    """
    complete = tuple(prompt if prompt.grader else replace(prompt, grader=default) for prompt in prompts)
    for prompt in complete:
        if prompt.grader is None:
            raise UsageError(f"prompt {prompt.prompt_id!r} names no grader; give --grader")
        if prompt.grader == COMMAND and command is None:
            raise UsageError(f"prompt {prompt.prompt_id!r} is graded by a command; give --grader-command")
        if prompt.grader == JUDGE and not judge:
            raise UsageError(f"prompt {prompt.prompt_id!r} is graded by a judge; give --judge")
        if prompt.grader not in (*GRADERS, *_WITHOUT_REFERENCE):
            raise UsageError(f"prompt {prompt.prompt_id!r}: no grader {prompt.grader!r}; there are {_names()}")
        if prompt.grader in GRADERS and prompt.reference is None:
            raise UsageError(f"prompt {prompt.prompt_id!r} has no reference for grader {prompt.grader!r}")
    _check_references(complete)
    return complete


def _names() -> str:
    return ", ".join((*GRADERS, *_WITHOUT_REFERENCE))


def _check_references(prompts: Sequence[Prompt]) -> None:
    cases = [(p.grader or "", p.reference or "", "") for p in prompts if p.grader in GRADERS]
    try:
        grade_all(cases)
    except GraderError:
        for prompt in prompts:
            _check_reference(prompt)
        raise


def _check_reference(prompt: Prompt) -> None:
    try:
        if prompt.grader in GRADERS:
            grade(prompt.grader or "", prompt.reference or "", "")
    except GraderError as exc:
        raise UsageError(f"prompt {prompt.prompt_id!r}: {exc}") from exc


async def grade_replies(
    prompts: Sequence[Prompt], progress: Progress, command: Command | None, on_graded: Callable[[int], None]
) -> Graded:
    """Scores of all replies so far but those left to a judge. `on_graded` hears how many more are done."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    of_graders = [reply for reply in progress.replies.values() if by_id[reply.prompt_id].grader != JUDGE]
    whole = [reply for reply in of_graders if not _is_cut_in_thought(reply)]
    ruled = [reply for reply in whole if by_id[reply.prompt_id].grader in GRADERS]
    judged = [reply for reply in whole if by_id[reply.prompt_id].grader == COMMAND]
    graded = Graded(failures={reply.key: CUT_IN_THOUGHT for reply in of_graders if _is_cut_in_thought(reply)})
    on_graded(len(graded.failures))
    for start in range(0, len(ruled), CHUNK):
        chunk = ruled[start : start + CHUNK]
        cases = [(by_id[r.prompt_id].grader or "", by_id[r.prompt_id].reference or "", spoken(r.answer)) for r in chunk]
        for reply, found in zip(chunk, await asyncio.to_thread(grade_each, cases), strict=True):
            if isinstance(found, GraderError):
                graded.failures[reply.key] = f"not graded: {found}"
            else:
                graded.scores[reply.key] = found
        on_graded(len(chunk))
    if command is not None:
        await _judge_all(judged, by_id, progress, command, graded, on_graded)
    return graded


def _is_cut_in_thought(reply: Reply) -> bool:
    """Whether its room was used up before anything was said: that is no answer, and no wrong one."""
    return reply.finish_reason == "length" and not spoken(reply.answer).strip()


async def _judge_all(
    replies: Sequence[Reply],
    prompts: dict[str, Prompt],
    progress: Progress,
    command: Command,
    graded: Graded,
    on_graded: Callable[[int], None],
) -> None:
    places = asyncio.Semaphore(command.concurrency)
    of_command = command.digest()

    async def judge(reply: Reply) -> None:
        question = _question(prompts[reply.prompt_id], spoken(reply.answer))
        graded_by = hashlib.sha256(of_command + question).hexdigest()[:16]
        known = progress.scores.get((*reply.key, graded_by))
        try:
            async with places:
                score = known if known is not None else await _judge(command, question)
        except GradeFailed as failed:
            graded.failures[reply.key] = f"not graded: {failed}"
        else:
            if known is None:
                progress.add_score(reply.key, graded_by, score)
            graded.scores[reply.key] = score
        on_graded(1)

    with one_reason():
        async with asyncio.TaskGroup() as tasks:
            for reply in replies:
                tasks.create_task(judge(reply))


def _question(prompt: Prompt, answer: str) -> bytes:
    """What the command reads."""
    question = {
        "prompt": prompt.prompt,
        "messages": prompt.to_send(),
        "reference": prompt.reference,
        "answer": answer,
        "task": prompt.task,
    }
    return json.dumps(question).encode()


async def _judge(command: Command, question: bytes) -> float:
    try:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        raise GradeFailed(f"cannot run {command.argv[0]}: {exc}") from exc
    try:
        async with asyncio.timeout(command.timeout_s):
            said, complained, _ = await asyncio.gather(
                _first_bytes(process.stdout), _first_bytes(process.stderr), _ask(process.stdin, question)
            )
            status = await process.wait()
    except TimeoutError as exc:
        raise GradeFailed(f"the command took longer than {command.timeout_s:g} s") from exc
    finally:
        # Whatever it started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if status != 0:
        raise GradeFailed(f"the command ended with status {status}: {' '.join(complained.split())[:200]}")
    return _score(said)


async def _ask(stdin: asyncio.StreamWriter | None, question: bytes) -> None:
    if stdin is not None:
        # A command that does not care to read its input closes it early.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(question)
            await stdin.drain()
        stdin.close()


async def _first_bytes(stream: asyncio.StreamReader | None) -> str:
    """The beginning of what a stream says; the rest is read and dropped, so that nobody blocks on a full pipe."""
    kept = b""
    while stream is not None and (chunk := await stream.read(1 << 16)):
        kept = (kept + chunk)[:MAX_OUTPUT_BYTES]
    return kept.decode(errors="replace")


def _score(said: str) -> float:
    words = said.split()
    try:
        score = float(words[0]) if len(words) == 1 else math.nan
    except ValueError:
        score = math.nan
    if not 0.0 <= score <= 1.0:
        raise GradeFailed(f"the command must print one number from 0 to 1, not {said.strip()[:80]!r}")
    return score
