"""What a stream over gRPC does with a peer that does not do its part."""

import threading

from jsplit.transport.grpc_line import dialled, listening
from jsplit.transport.line import Lost

LIMIT = 2**20


def test_a_client_that_does_not_read_loses_its_line():
    sent, ended = [], threading.Event()

    def admit(line, identity):
        try:
            while len(sent) < 1000:
                line.send(bytes(100_000))
                sent.append(line.out.waiting)
        except Lost:
            ended.set()

    with (
        listening("127.0.0.1:0", None, 1, LIMIT, admit) as listener,
        dialled(f"127.0.0.1:{listener.port}", None, LIMIT),
    ):
        assert ended.wait(30)
    assert len(sent) < 100 and max(sent) <= 16
