// The SQLite file: the log in record batches, runs, results and stream positions; one transaction a commit.

import Database from "better-sqlite3";

const TABLES = `
CREATE TABLE projects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, head INTEGER NOT NULL);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, run_id TEXT NOT NULL, status TEXT NOT NULL,
  started_at INTEGER NOT NULL, ended_at INTEGER, last_offset INTEGER NOT NULL, document TEXT NOT NULL,
  UNIQUE (project_id, run_id)
);
CREATE INDEX runs_of_project ON runs (project_id, started_at, run_id);
CREATE TABLE batches (
  project_id INTEGER NOT NULL, last_offset INTEGER NOT NULL, first_offset INTEGER NOT NULL, run INTEGER NOT NULL,
  stream TEXT NOT NULL, received_at INTEGER NOT NULL, last_seq INTEGER NOT NULL, count INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (project_id, last_offset)
);
CREATE INDEX batches_of_run ON batches (run, last_offset);
CREATE TABLE results (
  run INTEGER NOT NULL, test_id TEXT NOT NULL, attempt INTEGER NOT NULL, test_key INTEGER NOT NULL, final INTEGER NOT NULL,
  status TEXT NOT NULL, ok INTEGER, outcome TEXT, duration_ms REAL, "begin" TEXT, "end" TEXT,
  PRIMARY KEY (run, test_id, attempt)
);
CREATE INDEX results_of_test ON results (test_key, run);
CREATE TABLE streams (
  stream_id TEXT PRIMARY KEY, run INTEGER NOT NULL, acked_seq INTEGER NOT NULL, accepted INTEGER NOT NULL,
  refused INTEGER NOT NULL, duplicates INTEGER NOT NULL
);`;

const PUT_RUN = `
INSERT INTO runs (project_id, run_id, status, started_at, ended_at, last_offset, document) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (project_id, run_id) DO UPDATE SET status = excluded.status, ended_at = excluded.ended_at,
  last_offset = excluded.last_offset, document = excluded.document RETURNING id`;

const PUT_RESULT = `
INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run, test_id, attempt) DO UPDATE SET final = excluded.final, status = excluded.status, ok = excluded.ok,
  outcome = excluded.outcome, duration_ms = excluded.duration_ms,
  "begin" = coalesce(excluded."begin", "begin"), "end" = coalesce(excluded."end", "end")`;

const PUT_STREAM = `
INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (stream_id) DO UPDATE SET acked_seq = excluded.acked_seq,
  accepted = excluded.accepted, refused = excluded.refused, duplicates = excluded.duplicates`;

export class Store {
  constructor(path) {
    const db = new Database(path);
    if (db.pragma("journal_mode = WAL", { simple: true }) !== "wal") throw new Error("no WAL");
    db.pragma("synchronous = FULL");
    db.pragma("foreign_keys = ON");
    db.pragma(`journal_size_limit = ${64 * 1024 * 1024}`);
    if (db.pragma("synchronous", { simple: true }) !== 2) throw new Error("synchronous is not FULL");
    db.exec(TABLES);
    db.prepare("INSERT INTO projects (name, head) VALUES ('default', 0)").run();
    this.db = db;
    this.begin = db.prepare("BEGIN IMMEDIATE");
    this.end = db.prepare("COMMIT");
    this.moveHead = db.prepare("UPDATE projects SET head = ? WHERE id = 1 AND head = ?");
    this.putRun = db.prepare(PUT_RUN).pluck();
    this.addBatch = db.prepare("INSERT INTO batches VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)");
    this.putResult = db.prepare(PUT_RESULT);
    this.putStream = db.prepare(PUT_STREAM);
  }

  /** Store one commit durably. `runs` have `touched` attempts, `streams` a `batch` of events, or none. */
  append(runs, streams, head, before) {
    this.begin.run();
    if (this.moveHead.run(head, before).changes !== 1) throw new Error("the head has moved");
    for (const run of runs) this.#appendRun(run);
    for (const stream of streams) this.#appendStream(stream);
    this.end.run();
  }

  #appendRun(run) {
    const document = JSON.stringify(run.payload());
    run.id = this.putRun.get(1, run.runId, run.status, run.startedAt, run.endedAt, run.offset, document);
    for (const one of run.touched) {
      const final = run.isFinal(one);
      const status = one.status ?? (run.status === "running" ? "running" : "interrupted");
      const ok = one.status === null ? null : one.ok ? 1 : 0;
      const outcome = final ? run.outcomeOf(one) : null;
      const key = hashOf(one.testId);
      this.putResult.run(
        run.id, one.testId, one.number, key, final ? 1 : 0, status, ok, outcome, one.durationMs, one.begin, one.end,
      );
      one.begin = one.end = null;
    }
    run.touched.clear();
  }

  #appendStream(stream) {
    const batch = stream.batch;
    if (batch !== null) {
      const last = batch.firstOffset + batch.count - 1;
      const body = `[${batch.body}]`;
      this.addBatch.run(last, batch.firstOffset, batch.run.id, stream.id, batch.receivedAt, batch.lastSeq, batch.count, body);
    }
    if (stream.run !== null) {
      const { id, run, taken, accepted, refused, duplicates } = stream;
      this.putStream.run(id, run.id, taken, accepted, refused, duplicates);
    }
  }

  close() {
    this.db.close();
  }
}

/** 53 bits of a hash (cyrb53, public domain): a small key for a test's history over all runs. */
function hashOf(text) {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    a = Math.imul(a ^ code, 2654435761);
    b = Math.imul(b ^ code, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return 4294967296 * (2097151 & b) + (a >>> 0);
}
