// The conversation of the integration guide, from Node with the ws package. Prints one JSON line for each answer.
import WebSocket from "ws";

const ws = new WebSocket(process.argv[2]);
const waiting = [];
ws.on("message", (data) => waiting.shift()(JSON.parse(data.toString())));
const answer = () => new Promise((resolve) => waiting.push(resolve));

ws.on("open", async () => {
  ws.send(JSON.stringify({ type: "startTestRun", payload: { name: "from node" } }));
  const started = await answer();
  console.log(JSON.stringify(started));

  ws.send(JSON.stringify({
    type: 'event',
    payload: {
      id: 'evt-123',
      type: 'test/start',
      timestamp: Date.now(),
      payload: {
        testId: 'test-1',
        testName: 'Login Test'
      }
    }
  }));

  ws.send(JSON.stringify({
    type: 'getActiveRuns'
  }));
  console.log(JSON.stringify(await answer()));

  for (const message of [
    { type: "getRunStatus", payload: { runId: started.payload.runId } },
    { type: "getStatistics" },
    { type: "event", payload: { id: "evt-124", type: "test/start" } },
    { type: "endTestRun", payload: { runId: started.payload.runId } },
  ]) {
    ws.send(JSON.stringify(message));
    console.log(JSON.stringify(await answer()));
  }
  ws.close();
});
