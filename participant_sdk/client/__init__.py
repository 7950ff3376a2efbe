"""The client: begins, runs and commits transactions over one stream to the coordinator.

    async with Client("127.0.0.1:7420") as client:
        done = await client.run(call("orders", "place", id="o1"), call("payments", "debit", account="a", amount=5))

        async with client.transaction(timeout=5.0) as tx:
            ...  # calls through channels made with `interceptors=client.interceptors()` take part

`docs/how-to/call-a-transaction.md` shows it in use.
"""

from participant_sdk.client.client import Call, Client, call
from participant_sdk.client.results import AlreadyCommitted, Committed
from participant_sdk.client.retry import transactional
from participant_sdk.client.transaction import Transaction, current_transaction
from troth.errors import Aborted, HeuristicOutcome, OutcomeUnknown, RequestError

__all__ = [
    "Aborted",
    "AlreadyCommitted",
    "Call",
    "Client",
    "Committed",
    "HeuristicOutcome",
    "OutcomeUnknown",
    "RequestError",
    "Transaction",
    "call",
    "current_transaction",
    "transactional",
]
