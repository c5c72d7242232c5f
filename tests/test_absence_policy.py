"""When an epoch goes on without a client, and what to do where it cannot."""

import pytest

from jsplit.net.client_manager import AbsencePolicy

CASES = {
    # skip, others that are there, whether it has sent a batch
    (False, 3, True): "a longer --wait or --absent skip",
    (True, 0, True): "--absent skip needs one client at least",
    (True, 3, False): "only after it has sent a batch; start it",
}


@pytest.mark.parametrize("case", CASES)
def test_a_client_that_cannot_be_skipped_is_said_with_the_reason(case):
    skip, left, sent = case
    objection = AbsencePolicy(1.0, skip).objection(left=left, sent=sent)
    assert objection is not None and CASES[case] in objection
    assert "start it" in objection and "this server" in objection


def test_a_client_that_sent_a_batch_can_be_skipped_while_another_is_there():
    assert AbsencePolicy(1.0, True).objection(left=1, sent=True) is None
