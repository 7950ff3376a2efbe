"""Who began a transaction: asked once, and no longer awaited than the stream stands and the coordinator takes."""

from __future__ import annotations

import asyncio

import pytest

from participant_sdk import callers
from participant_sdk.callers import Callers
from troth.errors import Aborted, Reason, RequestError
from troth.v1 import common_pb2, participant_pb2

CONTEXT = common_pb2.TransactionContext(transaction_id="c1.1.0a0b0c0d.1.7", proof=b"p", call_id="1")


class Asked:
    """Callers with one coordinator, and the questions that they have asked."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.questions: list[participant_pb2.CallerQuestion] = []
        self.callers = Callers("notes", lambda stream, question: self.questions.append(question), seconds)
        self.callers.opened("c1", 4)

    async def ask(self, context: common_pb2.TransactionContext = CONTEXT) -> asyncio.Task[str]:
        """A call that has asked."""
        task = asyncio.create_task(self.callers.of(context))
        await asyncio.sleep(0)
        return task

    def answer(self, caller: str = "web", **fields: object) -> None:
        """The coordinator's word on the newest question."""
        question = self.questions[-1]
        told = participant_pb2.CallerAnswer(transaction_id=question.transaction_id, proof=question.proof, caller=caller)
        told.MergeFrom(participant_pb2.CallerAnswer(**fields))  # type: ignore[arg-type]  # by field name
        self.callers.heard(told)


async def test_calls_of_one_transaction_ask_once() -> None:
    asked = Asked()
    first, second = await asked.ask(), await asked.ask()
    asked.answer()
    assert (await first, await second, await asked.callers.of(CONTEXT)) == ("web", "web", "web")
    assert len(asked.questions) == 1


async def test_another_proof_is_another_question() -> None:
    asked = Asked()
    first = await asked.ask()
    asked.answer()
    await first
    forged = common_pb2.TransactionContext(transaction_id=CONTEXT.transaction_id, proof=b"forged")
    second = await asked.ask(forged)
    asked.answer("", refusal=common_pb2.Cause(reason="FORBIDDEN", message="no"))
    with pytest.raises(RequestError, match="no"):
        await second
    assert await asked.callers.of(CONTEXT) == "web"


async def test_who_gives_up_leaves_no_question_behind() -> None:
    asked = Asked()
    task = await asked.ask()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    asked.answer()  # too late for him, and kept
    assert await asked.callers.of(CONTEXT) == "web"


async def test_a_coordinator_that_is_away_goes_away_or_says_nothing() -> None:
    asked = Asked(seconds=0.0)
    with pytest.raises(Aborted, match="has not said") as caught:
        await asked.callers.of(CONTEXT)
    assert caught.value.reason is Reason.COORDINATOR_AWAY
    patient = Asked()
    task = await patient.ask()
    patient.callers.closed(3)
    patient.callers.closed(4)
    with pytest.raises(Aborted, match="has ended"):
        await task
    with pytest.raises(Aborted, match="is away"):
        await patient.callers.of(CONTEXT)
    assert len(patient.questions) == 1


async def test_so_many_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "KEPT_MAX", 2)
    asked = Asked()
    contexts = [common_pb2.TransactionContext(transaction_id=f"c1.1.0a0b0c0d.1.{number}") for number in range(3)]
    for context in contexts:
        task = await asked.ask(context)
        asked.answer()
        await task
    await asked.callers.of(contexts[2])
    assert len(asked.questions) == 3
    task = await asked.ask(contexts[0])
    asked.answer("another")
    assert await task == "another"


async def test_a_coordinator_that_does_not_know_the_question_is_not_asked() -> None:
    """An older one passes it over, and the call would wait for an answer that never comes."""
    asked = Asked()
    asked.callers.closed(4)
    asked.callers.opened("c1", 5, answers=False)
    with pytest.raises(Aborted, match="older version") as caught:
        await asked.callers.of(CONTEXT)
    assert caught.value.reason is Reason.VERSION_MISMATCH and not asked.questions
