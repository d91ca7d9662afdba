// Takes events in and commits them: each by itself, or all that has queued up while the event loop was busy.

import { createHash, randomBytes } from "node:crypto";
import { problemOf } from "./validate.mjs";
import { Run } from "./state.mjs";

const ENVELOPE = new Set(["id", "type", "timestamp", "payload", "runId", "project", "seq"]);

export class Stream {
  constructor(id, connection) {
    this.id = id;
    this.connection = connection;
    this.run = null;
    this.taken = 0;
    this.accepted = 0;
    this.refused = 0;
    this.duplicates = 0;
    this.digest = createHash("sha256");
    this.consumed = ""; // lines of the digest that have not been hashed yet
    this.batch = null; // what the next commit writes to the log
    this.gapTold = false;
    this.receipt = null;
  }
}

export class Committer {
  constructor(store, { each }) {
    this.store = store;
    this.each = each;
    this.epoch = randomBytes(8).toString("hex");
    this.runs = new Map();
    this.streams = new Map();
    this.subscriptions = new Set();
    this.head = 0;
    this.stored = 0;
    this.dirtyRuns = new Set();
    this.dirtyStreams = new Set();
    this.scheduled = false;
    this.flushLater = () => {
      this.scheduled = false;
      this.flush();
    };
  }

  startRun(facts, participant) {
    const runId = facts.runId ?? randomBytes(12).toString("hex");
    let run = this.runs.get(runId);
    if (run === undefined) {
      run = new Run("default", runId, facts, Date.now());
      this.runs.set(runId, run);
    }
    run.participants.set(participant, { state: "active", complete: null });
    this.dirtyRuns.add(run);
    return run;
  }

  /** Take a message's events in; what is wrong goes to `refuse`. The acknowledgement follows the commit. */
  take(stream, events, refuse) {
    this.dirtyStreams.add(stream);
    const now = Date.now();
    for (const event of events) {
      this.#takeOne(stream, event, now, refuse);
      if (this.each) this.#append();
    }
    if (this.each) this.flush();
    else if (!this.scheduled) {
      this.scheduled = true;
      setImmediate(this.flushLater);
    }
  }

  #takeOne(stream, event, now, refuse) {
    const seq = event?.seq;
    if (!Number.isSafeInteger(seq) || seq < 1) return refuse("invalid_event", "`seq` is missing", {});
    if (seq <= stream.taken) return void (stream.duplicates += 1);
    if (seq !== stream.taken + 1) {
      if (!stream.gapTold) refuse("sequence_gap", "events are missing", { seq: stream.taken + 1, temporary: true });
      stream.gapTold = true;
      return;
    }
    stream.gapTold = false;
    const problem = stream.receipt === null ? problemOf(event) : "";
    stream.taken = seq;
    stream.consumed += `${seq}:${typeof event.id === "string" ? event.id : ""}\n`;
    const run = problem === null ? this.#runOf(stream, event) : null;
    if (run === null) {
      stream.refused += 1;
      return refuse("invalid_event", `\`${problem ?? "runId"}\` breaks a rule`, { seq, eventId: event.id });
    }
    this.#record(stream, run, event, now);
  }

  #runOf(stream, event) {
    if (stream.run === null) stream.run = this.startRun({ runId: event.runId ?? undefined }, stream.id);
    return !event.runId || event.runId === stream.run.runId ? stream.run : null;
  }

  #record(stream, run, event, now) {
    run.assignAttempt(event);
    const payload = JSON.stringify(event.payload);
    run.fold(event, payload);
    this.dirtyRuns.add(run);
    stream.accepted += 1;
    const batch = (stream.batch ??= { run, firstOffset: 0, count: 0, receivedAt: now, lastSeq: 0, body: "", texts: [] });
    const text = textOf(event, payload);
    batch.body = batch.count === 0 ? text : `${batch.body},${text}`;
    batch.count += 1;
    batch.lastSeq = event.seq;
    if (this.subscriptions.size > 0) batch.texts.push([event.type, text]);
  }

  /** Commit what was taken, acknowledge it, and publish it. */
  flush() {
    if (this.dirtyStreams.size === 0 && this.dirtyRuns.size === 0) return;
    const streams = [...this.dirtyStreams];
    this.#append();
    this.dirtyStreams.clear();
    for (const stream of streams) {
      stream.connection?.send(`{"type":"ack","payload":{"streamId":${JSON.stringify(stream.id)},"seq":${stream.taken}}}`);
    }
  }

  #append() {
    // Offsets are given here, stream by stream, so that a commit has one batch of each stream however they came mixed.
    for (const { batch } of this.dirtyStreams) {
      if (batch === null) continue;
      batch.firstOffset = this.head + 1;
      this.head += batch.count;
      batch.run.offset = this.head;
    }
    this.store.append(this.dirtyRuns, this.dirtyStreams, this.head, this.stored);
    this.stored = this.head;
    this.dirtyRuns.clear();
    for (const stream of this.dirtyStreams) {
      if (stream.batch !== null && this.subscriptions.size > 0) this.#publish(stream.batch);
      stream.batch = null;
    }
  }

  #publish(batch) {
    const last = batch.firstOffset + batch.count - 1;
    const all = batch.texts.map(([, text], index) => `{"offset":${batch.firstOffset + index},${text.slice(1)}`).join(",");
    for (const one of this.subscriptions) {
      if (one.runId !== undefined && one.runId !== batch.run.runId) continue;
      let events = all;
      if (one.types !== undefined) {
        const wanted = batch.texts.map(([type, text], index) => [type, batch.firstOffset + index, text]);
        const kept = wanted.filter(([type]) => one.types.includes(type));
        events = kept.map(([, offset, text]) => `{"offset":${offset},${text.slice(1)}`).join(",");
      }
      const body = `{"subscriptionId":"${one.id}","offset":${last},"events":[${events}]}`;
      one.connection.send(`{"type":"published","payload":${body}}`);
    }
  }

  /** The receipt of a stream that ends at `lastSeq` with `digest`; the same however often it is asked for. */
  endStream(stream, lastSeq, digest) {
    if (stream.receipt === null) {
      const own = stream.digest.update(stream.consumed).digest("hex");
      const complete = lastSeq === stream.taken && digest === own;
      const { id, taken, accepted, refused, duplicates } = stream;
      stream.receipt = { streamId: id, lastSeq: taken, accepted, refused, duplicates, digest: own, complete };
      if (stream.run !== null) {
        stream.run.leave(stream.id, complete, Date.now());
        this.dirtyRuns.add(stream.run);
      }
      this.flush();
    }
    return stream.receipt;
  }
}

/** An event as JSON. The payload, its larger part, has been written already. */
function textOf(event, payload) {
  for (const key in event) if (!ENVELOPE.has(key)) return JSON.stringify(event);
  const run = event.runId ? `,"runId":${JSON.stringify(event.runId)}` : "";
  const { id, type, timestamp, seq } = event;
  return `{"id":${JSON.stringify(id)},"type":${JSON.stringify(type)},"timestamp":${timestamp}${run},"seq":${seq},"payload":${payload}}`;
}
