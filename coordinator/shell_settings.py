"""What the daemon needs around its core: each setting with its meaning, and of each number the unit and the range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from troth.identity.tls import Tls
from troth.link import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS

FRAME_OVERHEAD_BYTES = 65_536
"""What a frame needs beyond the payload of its one message."""


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """What the daemon needs around its core."""

    name: str = "c1"
    """The coordinator's name; stamped in its log, and the first part of every transaction id."""
    listen: str = "127.0.0.1:7420"
    """Where to listen, HOST:PORT; port 0 takes a free one."""
    tls_certificate: str = ""
    """The coordinator's certificate, a file in PEM; with it everything is encrypted. Read again when it changes."""
    tls_key: str = ""
    """The certificate's private key, a file in PEM that only its owner may read."""
    tls_authorities: str = ""
    """Who signs for participants, clients and operators, a file in PEM; with it each of them has to show a certificate."""
    tls_revoked: str = ""
    """Which certificates were revoked by these authorities, a file of lists (CRL) in PEM. Read again when it changes."""
    token_listen: str = ""
    """Another address, HOST:PORT, for those who show a token and no certificate; only with TLS."""
    tokens: str = ""
    """Whose a bearer token is, a file in TOML with hashes alone; `troth token` writes it. Read again when it changes."""
    jwt_keys: str = ""
    """Public keys of an OpenID provider whose JWTs are taken as tokens, a JSON Web Key Set. Read again when it changes."""
    jwt_audience: str = ""
    """The audience that a JWT has to name."""
    jwt_issuer: str = ""
    """The issuer that a JWT has to name; any by default."""
    jwt_claim: str = "sub"
    """The claim of a JWT that is the caller's name."""
    policy: str = ""
    """Who may do what, a file in TOML: docs/how-to/close-it.md. Read again when it changes. `open`: everybody may do anything."""
    audit_directory: str = ""
    """Where the audit log is; by default `audit` in the data directory where there is a policy, and nowhere otherwise."""
    audit_key: str = ""
    """The private key that signs its checkpoints, a file in PEM; `troth audit key` makes one."""
    audit_file_bytes: int = 67_108_864
    """Bytes of one of its files; then a new one is begun."""
    audit_retention_seconds: float = 0.0
    """How long its entries are kept at least; then whole files are dropped, which the log says. 0: for ever."""
    reviews: str = ""
    """Orders that a second person has to approve, with commas between them: resolve, replace, forget, accept-loss."""
    review_seconds: float = 3_600.0
    """How long such an order waits before it expires."""
    admin_listen: str = ""
    """Where the admin service and reflection are instead of at `listen`: HOST:PORT, or unix:/PATH for whoever may open that
    file."""
    reflection: bool = True
    """Whether gRPC's reflection tells what services there are."""
    insecure: bool = False
    """Whether to listen beyond this machine without TLS: whoever reaches the port can do anything then."""
    payload_keys: str = ""
    """What seals keys and reasons in logs: a file of `troth keys`, env:VARIABLE or exec:COMMAND; without it they are in clear."""
    data_directory: str = "var/coordinator"
    """The directory of the log; one daemon has it to itself."""
    store: str = ""
    """A PostgreSQL database for a cell's logs, in place of a file; its nodes share it. A libpq connection string, no password."""
    node: str = ""
    """With a store: this node's name in its cell; by default its address."""
    advertise: str = ""
    """With a store: where others reach this node, HOST:PORT; by default where it listens, or this machine's name and the port."""
    canary: float = 1.0
    """With a store: the part of the shards, and so of the keys, that this node takes at most, for a version that is tried first.
    The others take the rest; 0 stands by. A cell that has no other node is served all the same."""
    lease_seconds: float = 3.0
    """How long a node that says nothing any more keeps its shards of the store."""
    log_level: str = "info"
    """What is told on stderr: debug, info, warning or error."""
    log_transactions: str = "not_committed"
    """Which transactions get a line when they are over: all (which costs some speed), not_committed or none."""
    log_format: str = "auto"
    """How it is told: console, json, or auto (console on a terminal)."""
    metrics_listen: str = ""
    """Where Prometheus reads the metrics, and probes ask /live and /ready, HOST:PORT, such as 127.0.0.1:9420; empty for nowhere. It
    needs the extra `metrics`."""
    tracing: bool = False
    """Whether to make spans of transactions whose clients trace, and send them where OpenTelemetry's environment variables say. It
    needs the extra `otlp`, or `otel` and another exporter."""
    console_listen: str = ""
    """Where browsers find the console, HOST:PORT, such as 127.0.0.1:7421; empty for nowhere. It needs the extra `console`."""
    on_attention: str = ""
    """A web address (http or https) that is told what needs people, by a POST with JSON whenever that changes; empty for none."""
    history_seconds: float = 604_800.0
    """How long it stays findable how a transaction ended, beyond what the protocol needs; 0 keeps no history."""
    history_rows_max: int = 1_000_000
    """Transactions in the history; past it the oldest are dropped."""
    history_bytes_max: int = 1_073_741_824
    """Bytes of the history, beside the log; past it the oldest are dropped."""
    features_held_back: str = ""
    """New features that are not used until every node is upgraded, with commas between, or `all`; `troth status` lists them."""
    drain_seconds: float = 30.0
    """How long a shutdown waits for undecided transactions."""
    frame_bytes_max: int = 4_194_304
    """Bytes of one message of gRPC, either way."""
    frame_messages_max: int = 16_384
    """Messages of one frame of a stream, either way, and of one call; a stream that brings more is ended as FRAME_TOO_LARGE."""
    outbox_items_max: int = 50_000
    """Messages that may wait for a peer that does not read; past it the stream is ended and Hello settles the rest."""
    outboxes_bytes_max: int = 536_870_912
    """Bytes that may wait for all peers together; past it the stream for which most waits is ended as OVERLOADED."""
    calls_max: int = 25_000
    """Calls and streams at once, but for those of operators; more are refused OVERLOADED."""
    unary_calls_max: int = 10_000
    """Unary calls and watches at once; more are refused OVERLOADED, so that callers who wait do not lock streams out."""
    identity_calls_max: int = 10_000
    """Calls and streams at once of one identity; more are refused OVERLOADED."""
    identity_connections_max: int = 1_000
    """Connections over which one identity has calls and streams at once; more are refused OVERLOADED."""
    identity_begins_per_second: int = 0
    """Transactions that one identity may begin in a second; more are refused OVERLOADED. 0: any number."""
    connections_max: int = 10_000
    """Connections to one address at once; more are closed at once. At most what the limit of open files leaves."""
    connection_calls_max: int = 10_000
    """Calls and streams at once over one connection; a client of gRPC lets more wait."""
    connection_idle_seconds: float = 60.0
    """How long a connection without any call or stream is kept."""
    watches_max: int = 4_000
    """Watches at once; more are refused OVERLOADED."""
    connection_watches_max: int = 1_000
    """Watches at once over one connection; more are refused OVERLOADED."""
    transaction_watches_max: int = 100
    """Watches of one transaction at once; more are refused OVERLOADED."""
    hello_seconds: float = 10.0
    """How long a new stream may stay silent, and how long a new connection has for its handshakes."""
    answer_seconds: float = 30.0
    """How long the answer to a unary call may take to be sent; then the call is given up, since its caller does not read."""
    goodbye_seconds: float = 5.0
    """How long an ended stream may take to deliver its Goodbye."""
    keepalive_seconds: float = KEEPALIVE_SECONDS
    """How long a connection may be silent before it is pinged."""
    keepalive_timeout_seconds: float = KEEPALIVE_TIMEOUT_SECONDS
    """How long the answer to a ping may take before the connection is given up."""

    @property
    def tls(self) -> Tls | None:
        """The files of TLS; `None` where there is none."""
        return Tls(self.tls_authorities, self.tls_certificate, self.tls_key) if self.tls_certificate else None


@dataclass(frozen=True, slots=True)
class Range:
    """The unit of a number, and the values that it may have, both ends included."""

    lowest: float
    highest: float
    unit: str


DAY_SECONDS = 86_400.0

RANGES: Mapping[str, Range] = {
    "open_transactions_max": Range(1, 10_000_000, "transactions"),
    "owner_transactions_max": Range(1, 10_000_000, "transactions"),
    "questions_max": Range(1, 10_000_000, "questions"),
    "open_bytes_max": Range(1, 1_099_511_627_776, "bytes"),
    "participants_max": Range(1, 4_096, "participants"),
    "operations_max": Range(1, 65_536, "operations"),
    "payload_bytes_max": Range(1, 1_073_741_824, "bytes"),
    "key_bytes_max": Range(1, 4_096, "bytes"),
    "timeout_ms_max": Range(1, 604_800_000, "milliseconds"),
    "retention_seconds": Range(1, 366 * DAY_SECONDS, "seconds"),
    "retained_transactions_max": Range(0, 100_000_000, "transactions"),
    "keys_max": Range(1, 100_000_000, "keys"),
    "skew_seconds": Range(0, DAY_SECONDS, "seconds"),
    "session_linger_seconds": Range(0.1, DAY_SECONDS, "seconds"),
    "sessions_max": Range(1, 1_000_000, "sessions"),
    "unseen_answers_max": Range(1, 10_000_000, "answers"),
    "key_results_bytes_max": Range(1, 1_099_511_627_776, "bytes"),
    "unseen_bytes_max": Range(1, 1_099_511_627_776, "bytes"),
    "resend_first_seconds": Range(0.01, 3_600, "seconds"),
    "resend_cap_seconds": Range(0.01, 3_600, "seconds"),
    "recovery_grace_seconds": Range(0, DAY_SECONDS, "seconds"),
    "proving_max": Range(1, 1_000_000, "transactions"),
    "hearing_seconds": Range(0, 3_600, "seconds"),
    "settle_answer_seconds": Range(0.01, 3_600, "seconds"),
    "watermark_interval_seconds": Range(0.01, 3_600, "seconds"),
    "reports_max": Range(1, 100_000_000, "reports"),
    "reports_bytes_max": Range(1, 1_099_511_627_776, "bytes"),
    "operation_names_bytes_max": Range(1, 1_099_511_627_776, "bytes"),
    "late_heuristics_max": Range(1, 1_000_000, "transactions"),
    "known_participants_max": Range(1, 1_000_000, "participants"),
    "canary": Range(0, 1, "of the shards"),
    "lease_seconds": Range(0.3, 3_600, "seconds"),
    "history_seconds": Range(0, 3_660 * DAY_SECONDS, "seconds"),
    "history_rows_max": Range(1, 1_000_000_000, "transactions"),
    "history_bytes_max": Range(1_048_576, 1_099_511_627_776, "bytes"),
    "drain_seconds": Range(0, DAY_SECONDS, "seconds"),
    "frame_bytes_max": Range(FRAME_OVERHEAD_BYTES + 1, 1_073_741_824, "bytes"),
    "frame_messages_max": Range(1, 1_000_000, "messages"),
    "audit_retention_seconds": Range(0, 36_600 * DAY_SECONDS, "seconds"),
    "audit_file_bytes": Range(1, 1_099_511_627_776, "bytes"),
    "outbox_items_max": Range(100, 100_000_000, "messages"),
    "outboxes_bytes_max": Range(FRAME_OVERHEAD_BYTES, 1_099_511_627_776, "bytes"),
    "calls_max": Range(10, 1_000_000, "calls"),
    "unary_calls_max": Range(1, 1_000_000, "calls"),
    "review_seconds": Range(1, 30 * DAY_SECONDS, "seconds"),
    "identity_calls_max": Range(1, 1_000_000, "calls"),
    "identity_connections_max": Range(1, 1_000_000, "connections"),
    "connections_max": Range(10, 1_000_000, "connections"),
    "connection_calls_max": Range(10, 1_000_000, "calls"),
    "connection_idle_seconds": Range(1, DAY_SECONDS, "seconds"),
    "identity_begins_per_second": Range(0, 10_000_000, "transactions"),
    "watches_max": Range(1, 1_000_000, "watches"),
    "connection_watches_max": Range(1, 1_000_000, "watches"),
    "transaction_watches_max": Range(1, 1_000_000, "watches"),
    "hello_seconds": Range(0.1, 3_600, "seconds"),
    "answer_seconds": Range(0.1, 3_600, "seconds"),
    "goodbye_seconds": Range(0.1, 3_600, "seconds"),
    "keepalive_seconds": Range(1, 3_600, "seconds"),
    "keepalive_timeout_seconds": Range(1, 3_600, "seconds"),
}
"""The range of every numeric setting; a test compares the names with the two dataclasses."""
