"""A small WebSocket message server of one's own, on trio, that has gained the test orchestration.

Its own messages, `ping` and `say`, work as they did. Everything marked (+) is what the orchestration needed.

    python examples/orchestrated_server.py --port 9000 --db ./test-results.db
"""

import argparse
import json
import signal
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from testorch_core import OrchestratorIntegration, create_orchestrator_integration  # (+)
from testorch_core.integration import RequestError, WebSocketHandlers  # (+)


class MessageServer:
    """Broadcasts what its clients say, and takes part in test orchestration."""

    def __init__(self, orchestration: OrchestratorIntegration) -> None:
        self._orchestration = orchestration
        self._clients: set[WebSocketConnection] = set()

    async def serve_client(self, request: WebSocketRequest) -> None:
        client = await request.accept()
        self._clients.add(client)
        handlers = self._orchestration.create_websocket_handlers(client={"address": str(request.remote)})  # (+)
        try:
            while True:
                await self._on_message(client, handlers, parse(await client.get_message()))
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(client)
            with trio.CancelScope(shield=True):  # (+) the going is written down even when the server stops
                await handlers.aclose()

    async def _on_message(self, client: WebSocketConnection, handlers: WebSocketHandlers, message: Any) -> None:
        match message.get("type"):
            case "ping":
                await send(client, "pong", message.get("payload"))
            case "say":
                for other in list(self._clients):
                    await send(other, "said", message["payload"])
            case _:
                await orchestrate(client, handlers, message)  # (+)


async def orchestrate(client: WebSocketConnection, handlers: WebSocketHandlers, message: Any) -> None:  # (+)
    """The messages of the orchestration; a refused request answers with its `error` message."""
    payload = message.get("payload")
    try:
        match message.get("type"):
            case "event":
                validation = await handlers.on_validate_event(payload)
                if not validation.valid:
                    await send(client, "error", validation.error)
                    return
                error = await handlers.on_event(payload)
                if error is not None:
                    await send(client, **error)
            case "startTestRun":
                await send(client, "testRunStarted", await handlers.on_start_test_run(payload))
            case "endTestRun":
                await send(client, "testRunEnded", await handlers.on_end_test_run(run_id_of(payload)))
            case "getActiveRuns":
                await send(client, "activeRuns", handlers.on_get_active_runs())
            case "getRunStatus":
                await send(client, "runStatus", handlers.on_get_run_status(run_id_of(payload)))
            case "getStatistics":
                await send(client, "statistics", await handlers.on_get_statistics())
            case unknown:
                await send(client, "error", {"code": "unknown_type", "message": f"no message has the type `{unknown}`"})
    except RequestError as refused:
        await send(client, **refused.message)


def parse(text: str | bytes) -> dict[str, Any]:
    """A message, whatever a client has sent: anything but a JSON object is a message without a type."""
    try:
        message = json.loads(text)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def run_id_of(payload: Any) -> str:
    return str(payload.get("runId", "")) if isinstance(payload, dict) else ""


async def send(client: WebSocketConnection, type: str, payload: Any) -> None:
    await client.send_message(json.dumps({"type": type, "payload": payload}))


async def main(host: str, port: int, db: str) -> None:
    async with create_orchestrator_integration(db_path=db) as orchestration:  # (+) shut down gracefully on leaving
        server = MessageServer(orchestration)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                listening = await nursery.start(serve_websocket, server.serve_client, host, port, None)
                print(f"listening on ws://{host}:{listening.port}", flush=True)
                await anext(aiter(signals))
                nursery.cancel_scope.cancel()
    print("stopped", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--db", default="./test-results.db")
    options = parser.parse_args()
    trio.run(main, options.host, options.port, options.db)
