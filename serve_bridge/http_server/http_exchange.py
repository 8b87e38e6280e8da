"""One request on a connection and the answer to it."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Scope

from serve_bridge.http.answers import AnswerBroken
from serve_bridge.http_server.answer_writer import AnsweredRequests, AnswerWriter
from serve_bridge.http_server.client_connection import ClientConnection
from serve_bridge.http_server.request_body import RequestBody

__all__ = ["Exchange"]


class Exchange:
    """Runs the application for one request.

    Attributes:
        scope: The request's ASGI scope.
        body: The request's body.
        answer: The answer.
    """

    __slots__ = ("_app", "_connection", "answer", "body", "scope")

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        connection: ClientConnection,
        requests: AnsweredRequests,
        *,
        keep_alive: bool,
        expects_100_continue: bool,
    ) -> None:
        self._app = app
        self._connection = connection
        self.scope: Scope = scope
        self.body: RequestBody = RequestBody(scope, connection, expects_100_continue=expects_100_continue)
        self.answer: AnswerWriter = AnswerWriter(scope, connection, requests, self.body, keep_alive=keep_alive)

    async def run(self) -> None:
        """Run the application. If it leaves its answer incomplete, the answer becomes a 500 or is cut off."""
        # BaseException: SystemExit in a task would end the loop, and with it every other request.
        try:
            await self._app(self.scope, self.body.receive, self.answer.send)
        except asyncio.CancelledError:
            if not self._connection.transport.is_closing():
                self.answer.fail()
        except AnswerBroken:  # the application has logged the reason
            self.answer.fail()
        except BaseException:
            self._connection.logger.exception("the application failed")
            self.answer.fail()
        else:
            if not (self.answer.complete or self.answer.dropped):
                self._connection.logger.error("the application returned before its answer was complete")
                self.answer.fail()
        finally:
            if self.body.share is not None:
                self.body.share.give_back()

    def disconnect(self) -> None:
        """Tell the application that its client has left, or that the request was refused."""
        self.body.close()

    def abandon(self) -> None:
        """Refuse the request although the application runs. From now on its messages are dropped."""
        self.answer.abandoned = True
        self.lose()

    def lose(self) -> None:
        """Note that the connection is lost."""
        if not self.answer.complete:
            self.body.close()
        if self.body.share is not None:  # a task cancelled before its first step does not run `finally`
            self.body.share.give_back()
