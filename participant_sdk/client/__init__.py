"""The client: begins, runs and commits transactions over one stream to the coordinator.

    async with Client("127.0.0.1:7420") as client:
        done = await client.run(call("orders", "place", id="o1"), call("payments", "debit", account="a", amount=5))

        async with client.transaction(timeout=5.0) as tx:
            ...  # calls through channels made with `interceptors=client.interceptors()` take part

`docs/how-to/call-a-transaction.md` shows it in use. `SyncClient` is the same for code that is not asynchronous.
"""

from participant_sdk.client.client import Call, Client, call
from participant_sdk.client.results import AlreadyCommitted, Committed
from participant_sdk.client.sync import SyncClient, SyncTransaction
from participant_sdk.client.transaction import Transaction, current_transaction
from participant_sdk.client.transactional import transactional
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
    "SyncClient",
    "SyncTransaction",
    "Transaction",
    "call",
    "current_transaction",
    "transactional",
]
