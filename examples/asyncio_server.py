"""The same on asyncio, with the `websockets` library: the core runs in a thread of its own behind the same handlers.

python examples/asyncio_server.py --port 9000 --db ./test-results.db
"""

import argparse
import asyncio
import json
import signal
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from testorch_core import OrchestratorIntegration, create_orchestrator_integration
from testorch_core.integration import RequestError, WebSocketHandlers


async def serve_client(client: ServerConnection, orchestration: OrchestratorIntegration) -> None:
    handlers = orchestration.create_websocket_handlers(client={"address": str(client.remote_address)})
    try:
        async for text in client:
            message = parse(text)
            if message.get("type") == "ping":  # the server's own message, as before
                await send(client, "pong", message.get("payload"))
            else:
                await orchestrate(client, handlers, message)
    finally:
        await handlers.aclose()


async def orchestrate(client: ServerConnection, handlers: WebSocketHandlers, message: Any) -> None:
    payload = message.get("payload")
    try:
        match message.get("type"):
            case "event":
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


async def send(client: ServerConnection, type: str, payload: Any) -> None:
    await client.send(json.dumps({"type": type, "payload": payload}))


async def main(host: str, port: int, db: str) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with (
        create_orchestrator_integration(db_path=db) as orchestration,
        serve(lambda client: serve_client(client, orchestration), host, port) as server,
    ):
        print(f"listening on ws://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
        await stopping.wait()
    print("stopped", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--db", default="./test-results.db")
    options = parser.parse_args()
    asyncio.run(main(options.host, options.port, options.db))
