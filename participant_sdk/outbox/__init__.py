"""The outbox: messages that a branch leaves in its own database, delivered after it has committed.

    from participant_sdk.outbox import Relay, put

    @bank.operation
    async def debit(db, *, account: str, amount: int) -> None:
        await db.execute("UPDATE account ...")
        await put(db, "payments", json.dumps({"account": account, "amount": amount}), key=account)

    async with Relay(DSN, deliver):         # in the same service, or beside it; as many as you like
        ...

A row of `troth.outbox` (PostgreSQL) or `troth_outbox` (MariaDB) is written with the branch's work, and commits with it or not at
all. The relay delivers committed rows at least once, each under an id that never changes, and those with the same key in the order
of their commits.
"""

from participant_sdk.outbox.apart import TopicAway
from participant_sdk.outbox.message import BODY_BYTES_MAX, Message, put
from participant_sdk.outbox.relay import Away, Relay, RelayLimits

__all__ = ["BODY_BYTES_MAX", "Away", "Message", "Relay", "RelayLimits", "TopicAway", "put"]
