// A test orchestration server by hand: ws + better-sqlite3, the part of testorch's protocol that the benchmarks speak.
//   node server.mjs DATABASE PORT each|group

import { randomBytes } from "node:crypto";
import { WebSocketServer } from "ws";
import { Committer, Stream } from "./committer.mjs";
import { Store } from "./store.mjs";

const [path, port, mode] = process.argv.slice(2);
const store = new Store(path);
const committer = new Committer(store, { each: mode === "each" });
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  perMessageDeflate: false,
  maxPayload: 8 * 1024 * 1024,
  backlog: 1024,
});

class Session {
  constructor(socket) {
    this.socket = socket;
    this.id = randomBytes(12).toString("hex");
    this.stream = null;
    this.run = null;
    socket.on("message", (raw) => this.hear(raw));
    socket.on("error", () => socket.terminate());
    socket.on("close", () => this.leave());
  }

  hear(raw) {
    let message;
    try {
      if (raw.includes("\\u0000")) throw new Error("NUL");
      message = JSON.parse(raw);
    } catch {
      return this.refuse("invalid_json", "not JSON", {});
    }
    const { type, payload, id } = message ?? {};
    if (type === "event") this.take([payload]);
    else if (type === "events" && Array.isArray(payload?.events)) this.take(payload.events);
    else if (Object.hasOwn(REQUESTS, String(type))) this.answer(REQUESTS[type], payload ?? {}, id);
    else this.refuse("unknown_type", `no message has the type \`${type}\``, {}, id);
  }

  take(events) {
    // The benchmarks' clients are all streams; plain ones are not part of what is compared.
    if (this.stream === null) return this.refuse("invalid_message", "say `hello` first", {});
    committer.take(this.stream, events, this.refuseEvent);
  }

  refuseEvent = (code, message, facts) => this.refuse(code, message, facts);

  answer(handle, payload, id) {
    committer.flush(); // a request is answered after everything that was sent before it is committed
    const answered = handle(this, payload);
    if (answered === null) return;
    const [type, body] = answered;
    if (type === "refused") this.refuse(body.code, body.message, {}, id);
    else this.socket.send(JSON.stringify({ type, payload: body, inReplyTo: id }));
  }

  refuse(code, message, facts, id) {
    const body = { code, message, temporary: false, details: [], ...facts };
    this.socket.send(JSON.stringify({ type: "error", payload: body, inReplyTo: id }));
  }

  leave() {
    for (const one of committer.subscriptions) if (one.connection === this.socket) committer.subscriptions.delete(one);
    if (this.stream !== null && this.stream.connection === this.socket) this.stream.connection = null;
  }
}

const refused = (code, message) => ["refused", { code, message }];

const REQUESTS = {
  hello(session, { streamId, runId, resume }) {
    let stream = null;
    if (streamId !== undefined && streamId !== null) {
      stream = committer.streams.get(streamId) ?? null;
      if (stream !== null && resume !== true) return refused("stream_conflict", "the stream is known; resume it");
      stream ??= new Stream(streamId, session.socket);
      stream.connection = session.socket;
      committer.streams.set(streamId, stream);
      session.stream = stream;
      if (runId && stream.run === null) stream.run = committer.startRun({ runId }, streamId);
      committer.flush();
    }
    const welcome = {
      sessionId: session.id,
      epoch: committer.epoch,
      streamId: stream?.id ?? null,
      runId: stream?.run?.runId ?? null,
      ackedSeq: stream?.taken ?? 0,
      heartbeatMs: 2000,
      maxMessageBytes: 8 * 1024 * 1024,
      maxInFlight: 10_000,
      durability: "power",
      features: [],
    };
    return ["welcome", welcome];
  },

  heartbeat: () => null,

  startTestRun(session, facts) {
    const run = committer.startRun(facts, session.stream?.id ?? session.id);
    session.run = run;
    if (session.stream !== null) session.stream.run ??= run;
    committer.flush();
    return ["testRunStarted", run.payload()];
  },

  endTestRun(session, { runId }) {
    const run = runId ? committer.runs.get(runId) : session.run;
    if (!run) return refused("unknown_run", `no run \`${runId}\``);
    if (run.status === "running") {
      run.leave(session.stream?.id ?? session.id, true, Date.now());
      committer.dirtyRuns.add(run);
      committer.flush();
    }
    return ["testRunEnded", run.payload()];
  },

  getRunStatus(session, { runId }) {
    const run = runId ? committer.runs.get(runId) : session.run;
    return run ? ["runStatus", run.payload()] : refused("unknown_run", `no run \`${runId}\``);
  },

  streamEnd(session, { lastSeq, digest }) {
    const stream = session.stream;
    if (stream === null) return refused("invalid_message", "this connection has no stream");
    if (lastSeq > stream.taken) return refused("sequence_gap", `events from ${stream.taken + 1} on are missing`);
    return ["receipt", committer.endStream(stream, lastSeq, digest)];
  },

  subscribe(session, { runId, types }) {
    const subscription = { id: randomBytes(6).toString("hex"), connection: session.socket, runId: runId ?? undefined, types };
    committer.subscriptions.add(subscription);
    return ["subscribed", { subscriptionId: subscription.id, offset: committer.head, epoch: committer.epoch, recovered: true }];
  },
};

server.on("connection", (socket) => new Session(socket));
server.on("listening", () => {
  const sqlite = store.db.prepare("SELECT sqlite_version()").pluck().get();
  process.stderr.write(`node ${process.version}, SQLite ${sqlite} listens on ws://127.0.0.1:${server.address().port}\n`);
});
process.on("SIGTERM", () => {
  committer.flush();
  store.close();
  process.exit(0);
});
