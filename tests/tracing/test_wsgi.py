"""What a trace says of calls that come by WSGI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from spans_seen import Seen

from participant_sdk import LogResource, Participant
from participant_sdk.frameworks.wsgi import CONTEXT_VARIABLE, TransactionMiddleware
from participant_sdk.metadata import packed
from troth.v1 import common_pb2


@pytest.mark.parametrize(("status", "ended"), [("200 OK", StatusCode.UNSET), ("503 Service Unavailable", StatusCode.ERROR)])
def test_a_call_has_the_status_of_its_answer(seen: Seen, tmp_path: Path, status: str, ended: StatusCode) -> None:
    """It was told as cancelled, whatever the answer: the call was over before the answer had begun."""
    bank = Participant("bank", resource=LogResource(), data_directory=tmp_path, coordinator="127.0.0.1:1")

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, [])
        return [b"it"]

    context = common_pb2.TransactionContext(transaction_id="c1.1.0badcafe.1.1", call_id="k")
    environ = {"REQUEST_METHOD": "POST", CONTEXT_VARIABLE: packed([context.SerializeToString()])}
    try:
        assert b"".join(TransactionMiddleware(application, bank)(environ, lambda *_: lambda _: None)) == b"it"
    finally:
        bank.close_in_background()
    span = seen.one("POST")
    assert dict(span.attributes or {})["http.response.status_code"] == int(status.split(" ")[0])
    assert span.status.status_code is ended
