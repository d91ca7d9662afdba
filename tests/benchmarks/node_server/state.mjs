// A run's state: attempts, counts and open tests, kept as the events come.

const SEVERITY = { __proto__: null, passed: 0, skipped: 1, todo: 2, unknown: 3, interrupted: 4, failed: 5, timedOut: 6, error: 7 };
const BUCKETS = ["queued", "running", ...Object.keys(SEVERITY), "expectedFailed"];
const MAX_RUNNING_SHOWN = 100;
const HAS_ATTEMPT = new Set(["test/start", "test/end", "test/output", "test/step/start", "test/step/end"]);

class Attempt {
  constructor(testId, number) {
    this.testId = testId;
    this.number = number;
    this.startedId = null;
    this.endedId = null;
    this.status = null;
    this.ok = true;
    this.durationMs = null;
    this.bucket = null;
    // What the next commit writes; null once it has.
    this.begin = null;
    this.end = null;
  }
}

export class Run {
  constructor(project, runId, facts, now) {
    this.id = null; // the database's own number, known after the first commit
    this.project = project;
    this.runId = runId;
    this.name = facts.name ?? null;
    this.metadata = facts.metadata ?? {};
    this.status = "running";
    this.complete = false;
    this.startedAt = now;
    this.endedAt = null;
    this.offset = 0;
    this.events = 0;
    this.counts = Object.fromEntries(BUCKETS.map((bucket) => [bucket, 0]));
    this.flaky = 0;
    this.participants = new Map();
    this.attempts = new Map();
    this.earlier = new Map();
    this.open = new Map();
    this.touched = new Set();
  }

  /** Give an event its attempt's number where the producer gave none, as it is stored. */
  assignAttempt(event) {
    const payload = event.payload;
    if (payload.attempt !== undefined || !HAS_ATTEMPT.has(event.type) || typeof payload.testId !== "string") return;
    const last = this.attempts.get(payload.testId);
    let number = last === undefined ? 1 : last.number;
    if (last !== undefined && last.endedId !== null && event.type === "test/start") number += 1;
    payload.attempt = number;
  }

  /** Take one event in. `text` is its payload as JSON. */
  fold(event, text) {
    this.events += 1;
    if (event.type === "test/start") this.#start(event, text);
    else if (event.type === "test/end") this.#end(event, text);
  }

  #start(event, text) {
    const payload = event.payload;
    const attempt = this.#attempt(payload.testId, payload.attempt);
    if (attempt.startedId !== null && attempt.startedId >= event.id) return;
    attempt.startedId = event.id;
    attempt.begin = text;
    if (attempt.status === null) {
      this.open.set(payload.testId, {
        testId: payload.testId,
        testName: payload.testName ?? payload.testId,
        attempt: attempt.number,
        startedAt: event.timestamp,
        workerId: payload.workerId ?? null,
      });
    }
    this.touched.add(attempt);
    this.#recount(attempt);
  }

  #end(event, text) {
    const payload = event.payload;
    const attempt = this.#attempt(payload.testId, payload.attempt);
    const status = SEVERITY[payload.status] === undefined ? "unknown" : payload.status;
    if (attempt.status !== null) {
      const difference = SEVERITY[attempt.status] - SEVERITY[status];
      if (difference > 0 || (difference === 0 && attempt.endedId >= event.id)) return;
    }
    attempt.endedId = event.id;
    attempt.status = status;
    attempt.ok = payload.ok ?? (status === (payload.expectedStatus ?? "passed") || status === "skipped" || status === "todo");
    attempt.durationMs = payload.durationMs ?? null;
    attempt.end = text;
    this.open.delete(payload.testId);
    this.touched.add(attempt);
    this.#recount(attempt);
  }

  #attempt(testId, number) {
    const last = this.attempts.get(testId);
    if (last !== undefined && last.number === number) return last;
    const earlier = this.earlier.get(testId) ?? [];
    const known = earlier.find((one) => one.number === number);
    if (known !== undefined) return known;
    const made = new Attempt(testId, number);
    if (last === undefined || number > last.number) {
      if (last !== undefined) {
        this.earlier.set(testId, [...earlier, last]);
        this.touched.add(last);
        this.#uncount(last);
      }
      this.attempts.set(testId, made);
    } else {
      this.earlier.set(testId, [...earlier, made]);
    }
    return made;
  }

  isFinal(attempt) {
    return this.attempts.get(attempt.testId) === attempt;
  }

  #recount(attempt) {
    if (!this.isFinal(attempt)) return;
    const bucket = this.#bucketOf(attempt);
    if (bucket === attempt.bucket) return;
    this.#uncount(attempt);
    attempt.bucket = bucket;
    this.counts[bucket] += 1;
    if (bucket === "passed" && this.#failedBefore(attempt)) this.flaky += 1;
  }

  #uncount(attempt) {
    if (attempt.bucket === null) return;
    this.counts[attempt.bucket] -= 1;
    if (attempt.bucket === "passed" && this.#failedBefore(attempt)) this.flaky -= 1;
    attempt.bucket = null;
  }

  #failedBefore(attempt) {
    const earlier = this.earlier.get(attempt.testId);
    return earlier !== undefined && earlier.some((one) => one !== attempt && one.status !== null && !one.ok);
  }

  #bucketOf(attempt) {
    if (attempt.status === null) return this.status === "running" ? "running" : "interrupted";
    if (!attempt.ok) return ["passed", "skipped", "todo"].includes(attempt.status) ? "failed" : attempt.status;
    return ["failed", "error", "timedOut"].includes(attempt.status) ? "expectedFailed" : attempt.status;
  }

  outcomeOf(attempt) {
    if (attempt.status === null) return this.status === "running" ? null : "unexpected";
    if (!attempt.ok) return "unexpected";
    if (attempt.status === "passed" && this.#failedBefore(attempt)) return "flaky";
    return attempt.status === "skipped" || attempt.status === "todo" ? "skipped" : "expected";
  }

  /** A participant ends its part; the last one ends the run. */
  leave(participant, complete, now) {
    this.participants.set(participant, { state: "ended", complete });
    const all = [...this.participants.values()];
    if (this.status !== "running" || all.some((one) => one.state !== "ended")) return;
    const unexpected = this.counts.failed + this.counts.error + this.counts.timedOut + this.counts.unknown + this.open.size;
    this.status = unexpected > 0 ? "failed" : "passed";
    this.complete = all.every((one) => one.complete);
    this.endedAt = now;
    for (const testId of this.open.keys()) {
      const attempt = this.attempts.get(testId);
      this.touched.add(attempt);
      this.#recount(attempt);
    }
  }

  payload() {
    const counts = { total: 0, ...this.counts, flaky: this.flaky, late: 0 };
    for (const bucket of BUCKETS) counts.total += this.counts[bucket];
    const running = [];
    if (this.status === "running") {
      for (const shown of this.open.values()) {
        if (running.push(shown) === MAX_RUNNING_SHOWN) break;
      }
    }
    return {
      runId: this.runId,
      project: this.project,
      name: this.name,
      status: this.status,
      complete: this.complete,
      startedAt: this.startedAt,
      endedAt: this.endedAt,
      durationMs: this.endedAt === null ? null : this.endedAt - this.startedAt,
      counts,
      running,
      participants: Array.from(this.participants, ([id, one]) => ({ id, ...one })),
      metadata: this.metadata,
      events: this.events,
      offset: this.offset,
    };
  }
}
