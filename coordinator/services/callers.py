"""Who began a transaction, told to participants that ask.

One-shot work carries its caller, since it comes through the coordinator. Interactive work comes from the client, who could say
anything; so a service that wants to know asks here, with the proof that came with the call (`troth.seals`).
"""

from __future__ import annotations

import hmac

from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.sessions import Sessions
from coordinator.services.transactions import UnarySession
from troth.errors import Reason
from troth.ids import service_of
from troth.seals import proof_of
from troth.v1 import participant_pb2


class Callers:
    """Answers for one shard."""

    def __init__(self, context: Context, sessions: Sessions, unary: UnarySession) -> None:
        self._context, self._sessions, self._unary = context, sessions, unary

    def answer(self, participant: str, question: participant_pb2.CallerQuestion) -> participant_pb2.CallerAnswer:
        """Who began it, unless the question is not a participant's of it."""
        transaction_id, proof = question.transaction_id, question.proof
        answer = participant_pb2.CallerAnswer(transaction_id=transaction_id, proof=proof)
        gate = self._context.common.gate
        if gate.policy is None:
            return answer
        owner = self._owner(transaction_id, proof)
        if owner is None or (owner and not gate.invites(owner, service_of(participant))):
            text = f"whoever called {participant} does not speak for {transaction_id[:120]}, or may not have it work"
            answer.refusal.CopyFrom(status.cause(Reason.FORBIDDEN, text))
        else:
            answer.caller = owner
        return answer

    def _owner(self, transaction_id: str, proof: bytes) -> str | None:
        """Who began it, if the proof fits."""
        session = transaction_id.rpartition(".")[0]
        if session == self._unary.name:
            token, owner = self._unary.token, self._context.core.owner_of(transaction_id)
        else:
            token, owner = self._sessions.token_and_owner(session)
        return owner if token and hmac.compare_digest(proof_of(token, transaction_id), proof) else None
