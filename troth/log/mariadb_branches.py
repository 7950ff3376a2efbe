"""The proof of what became of a branch, inside a MariaDB database: the table `troth_branch`.

    gid         the branch's name (`troth.gids`); its XA id is made of it (`xid_of`)
    committed   1: written in the branch's own transaction, so it is there exactly if the branch committed
                0: a tombstone, written by whoever asked for the branch and did not find it; it never commits any more
    at          when, UTC

As in PostgreSQL (`postgres_branches`), one primary key makes marker and tombstone exclude each other. XA ids belong to the whole
server, so a branch's id has its database in it; recovery compares that whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from troth.gids import gid_of, gid_prefix

FORMAT_ID = 0x54525448
"""`TRTH`: ours among all branches of the server."""
XID_PART_BYTES_MAX = 64
"""Of each of the two parts of an XA id."""

CREATE = (
    "CREATE TABLE IF NOT EXISTS troth_branch (gid VARCHAR(199) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,"
    " committed TINYINT NOT NULL DEFAULT 1, at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))) ENGINE = InnoDB"
)

WRITTEN = (
    "(SELECT SUM(VARIABLE_VALUE) FROM {status}"
    " WHERE VARIABLE_NAME IN ('HANDLER_WRITE', 'HANDLER_UPDATE', 'HANDLER_DELETE'))"
)
"""How many rows this session has written, updated or deleted since it began; locks and `SET v = v` are none. `status` is the table
of the server's dialect. (MySQL counts rows of its own temporary tables too: then a branch that only read is prepared as well.)"""

MARK = f"INSERT INTO troth_branch (gid) SELECT %s FROM DUAL WHERE {WRITTEN} <> %s"
"""The branch's last statement before its vote. No row: it has changed nothing, and needs no proof."""

ENTOMB = "INSERT INTO troth_branch (gid, committed) VALUES (%s, 0) ON DUPLICATE KEY UPDATE committed = committed"
"""Waits for a transaction that has the branch's marker."""

FATE = "SELECT committed FROM troth_branch WHERE gid = %s"

UNCOMMITTED = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"
"""For the next statement: it sees the marker of a branch that is not over, too."""

FORGET = "DELETE FROM troth_branch WHERE gid = %s"
"""One row at a time: of a list of them the server may read the whole table, and wait for every branch that is prepared."""

OLD = (
    "SELECT gid FROM troth_branch WHERE LEFT(gid, CHAR_LENGTH(%s)) = %s AND committed = 0"
    " AND at < UTC_TIMESTAMP(6) - INTERVAL 7 DAY"
)
"""Tombstones of branches that no session can still be working for."""

LIST = "XA RECOVER"


def branch_name(participant: str, transaction_id: str) -> str:
    """The name of a participant's branch of a transaction; its transaction fits into an XA id."""
    return gid_of(participant, transaction_id, transaction_bytes_max=XID_PART_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Xid:
    """An XA id as the server keeps it."""

    format_id: int
    transaction: bytes
    branch: bytes

    @property
    def sql(self) -> str:
        """As XA statements take it: no text can be misread."""
        return f"X'{self.transaction.hex()}',X'{self.branch.hex()}',{self.format_id}"

    @property
    def participant(self) -> str:
        """Whose it is; empty for other software's, and where only a digest of it is left."""
        name, at, _ = self.branch.decode(errors="replace").partition("@")
        return name if self.format_id == FORMAT_ID and at else ""


def xid_of(gid: str, database: str) -> Xid:
    """The XA id of a branch in a database."""
    _, service, slot, transaction = gid.split(":")
    return Xid(FORMAT_ID, transaction.encode(), _owner(f"{service}/{slot}" if slot else service, database))


def branch_of(xid: Xid, database: str) -> str:
    """The branch of ours in this database that an XA id stands for; empty for any other id."""
    name = branch_name(xid.participant, xid.transaction.decode(errors="replace")) if xid.participant else ""
    return name if name and xid_of(name, database) == xid else ""


def _owner(participant: str, database: str) -> bytes:
    whole = f"{participant}@{database}".encode()
    if len(whole) <= XID_PART_BYTES_MAX:
        return whole
    return f"sha-{hashlib.sha256(whole).hexdigest()[:48]}".encode()


def listed(rows: object) -> list[Xid]:
    """What `XA RECOVER` answered."""
    found = []
    for format_id, transaction_bytes, branch_bytes, data in rows:  # type: ignore[attr-defined]  # rows of any driver
        body = data.encode("latin-1", "replace") if isinstance(data, str) else bytes(data)
        end = int(transaction_bytes)
        found.append(Xid(int(format_id), body[:end], body[end : end + int(branch_bytes)]))
    return found


def names(xids: list[Xid], participant: str, database: str) -> list[str]:
    """The branches of a participant, or of one of its slots, in a database, among all of the server."""
    mine, prefix = _owner(participant, database), gid_prefix(participant)
    return [prefix + xid.transaction.decode() for xid in xids if xid.format_id == FORMAT_ID and xid.branch == mine]


def lock_name(*parts: str) -> str:
    """The name of a lock (`GET_LOCK`) that a session holds while it works, so that it can be found: these are of the whole
    server, and take 64 characters."""
    return f"troth:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:48]}"


def branch_lock(name: str, database: str) -> str:
    """Such a lock, held by the session that works for a branch."""
    return lock_name("branch", database, name)
