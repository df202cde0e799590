"""Which failures pass, how long is waited, and what is said: never a token, never a presigned address."""

import pytest

from pipeline.publishing.errors import PublishError
from pipeline.publishing.patience import LONGEST_WAIT, MOST_TRIES, patiently, understand, wait_before, without_secrets

httpx = pytest.importorskip("httpx2", reason="huggingface_hub 2 speaks through httpx2")

ADDRESS = "https://store.example/bucket/00000.parquet?X-Amz-Signature=secret&X-Amz-Credential=mine"


def refused(status, **headers):
    from huggingface_hub.errors import HfHubHTTPError

    response = httpx.Response(status, headers=headers, request=httpx.Request("PUT", ADDRESS))
    return HfHubHTTPError(f"{status} for url: {ADDRESS}", response=response)


@pytest.mark.parametrize("status", [408, 409, 412, 429, 500, 502, 503, 504])
def test_what_passes(status):
    failure = understand(refused(status, **{"Retry-After": "7"}))
    assert failure.passes and failure.seconds == 7 and wait_before(failure, 9) == 7
    assert understand(refused(status, **{"Retry-After": "9" * 30})).seconds == 3600


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_what_does_not_pass(status):
    assert not understand(refused(status)).passes


def test_a_spent_rate_limit_says_how_long():
    assert understand(refused(429, RateLimit='"api";r=0;t=55')).seconds == 55
    assert understand(refused(429, RateLimit='"api";r=3;t=55')).seconds is None
    assert [wait_before(understand(refused(503)), n) for n in (1, 2, 3, 20)] == [1, 2, 4, LONGEST_WAIT]


def test_lost_connections_pass_and_upload_threads_are_seen_through():
    lost = httpx.ReadError("reset by peer")
    wrapped = RuntimeError("Error while uploading 'a' to the Hub.")
    wrapped.__cause__ = lost
    assert understand(lost).passes and understand(wrapped).passes
    wrapped.__cause__ = refused(403)
    assert not understand(wrapped).passes and not understand(ValueError("malformed")).passes


def test_messages_hold_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-own-kind-of-token")
    text = without_secrets(f"'PUT {ADDRESS}' with hf_abcdefghij and my-own-kind-of-token (https://hub.example/a?b=c)")
    assert text == "'PUT https://store.example/bucket/00000.parquet' with [token] and [token] (https://hub.example/a)"


def test_patience_ends():
    waits = []

    def ask():
        raise refused(503)

    with pytest.raises(PublishError, match="listing: 503 for url") as caught:
        patiently(ask, "listing", waits.append)
    assert len(waits) == MOST_TRIES - 1 and sum(waits) < 600
    assert "Signature" not in str(caught.value) and caught.value.__suppress_context__
    answers = iter([refused(429), httpx.ConnectError("no"), "yes"])

    def ask_thrice():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask_thrice, "asking", lambda _: None) == "yes"
