"""An error of a real system under another code: nothing that its class knows is lost."""

from __future__ import annotations

import pytest

from evac.drivers.object_store import Refusal
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable


@pytest.mark.parametrize(
    "error",
    [
        Permanent("backup-refused", "no", "look"),
        OutcomeUnknown("backup-unknown", "perhaps", "look"),
        Retryable("backup-silent", "later", "wait", after_ms=7),
        Refusal("backup-no-repository", "no bucket", "create it", "NoSuchBucket"),
    ],
)
def test_only_the_code_and_the_message_change(error: ActionError) -> None:
    before = dict(vars(error))
    other = error.said_as("s3-other", "other words")
    assert type(other) is type(error)
    assert str(other) == other.message == "other words"
    assert vars(other) == {**before, "code": "s3-other", "message": "other words"}
    assert vars(error) == before
