"""Runs LocalStack with its port open to this machine only.

LocalStack's server ignores the address in GATEWAY_LISTEN and listens on every interface. It
also goes on without a word when the port is taken, so that another server would answer.
"""

import os
import runpy
import sys

from twisted.internet import endpoints


class LoopbackEndpoint(endpoints.TCP4ServerEndpoint):
    """A server endpoint on 127.0.0.1 that ends the process if it cannot listen."""

    def __init__(self, reactor, port):
        super().__init__(reactor, port, backlog=1024, interface="127.0.0.1")

    def listen(self, factory):
        return super().listen(factory).addErrback(give_up)


def give_up(failure):
    print(failure.getErrorMessage(), file=sys.stderr, flush=True)
    os._exit(1)


endpoints.TCP4ServerEndpoint = LoopbackEndpoint
runpy.run_module("localstack.runtime.main", run_name="__main__")
