"""An epoch that nobody can have reached is not followed: else whoever posed as the coordinator once would lock the real one out."""

from __future__ import annotations

import pytest

from participant_sdk.core.coordinators import Coordinators
from troth.errors import Reason, RemoteProtocolError
from troth.lives import JUMP_MAX
from troth.v1 import record_pb2


@pytest.mark.parametrize("before, epoch", [(None, 2**62), (7, 2**62), (7, 8 + JUMP_MAX), (None, JUMP_MAX + 1)])
def test_an_epoch_that_cannot_be_is_not_followed(before: int | None, epoch: int) -> None:
    coordinators = Coordinators()
    if before is not None:
        coordinators.replay(record_pb2.EpochSeen(coordinator="c1", epoch=before, log_id="log", nonce="aaaaaaaa"))
    with pytest.raises(RemoteProtocolError) as caught:
        coordinators.check(record_pb2.EpochSeen(coordinator="c1", epoch=epoch, log_id="log", nonce="bbbbbbbb"))
    assert caught.value.reason is Reason.IMPLAUSIBLE
    assert coordinators.epoch("c1") == (before or 0), "nothing has changed"
    assert coordinators.check(record_pb2.EpochSeen(coordinator="c1", epoch=(before or 0) + 1, log_id="log", nonce="bbbbbbbb"))
