// What must be true of an event: the substance of testorch's envelope and of its `event_validation` policy.

const STREAMS = new Set(["stdout", "stderr", "log"]);
const MAX_NAME = 4096;
const MAX_TEST_ID = 1024;

const isAbsent = (value) => value === undefined || value === null;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value, least, most) => typeof value === "string" && value.length >= least && value.length <= most;
const isWhole = (value, least, most) => Number.isSafeInteger(value) && value >= least && value <= most;
const isName = (value) => isAbsent(value) || isText(value, 0, MAX_NAME);
const isId = (value) => isAbsent(value) || isText(value, 1, MAX_TEST_ID);
const isMilliseconds = (value) => isAbsent(value) || (Number.isFinite(value) && value >= 0);
const isFlag = (value) => isAbsent(value) || typeof value === "boolean";
const isCount = (value) => isAbsent(value) || isWhole(value, 0, Number.MAX_SAFE_INTEGER);
const isMap = (value) => isAbsent(value) || isObject(value);
const isList = (value, accepts) => isAbsent(value) || (Array.isArray(value) && value.every(accepts));
const isString = (value) => typeof value === "string";
const isAttempt = (value) => value === undefined || isWhole(value, 1, 1000);

/** Returns the path of the first field that breaks a rule, or null for a good event. */
export function problemOf(event) {
  if (!isObject(event)) return "";
  if (!isText(event.id, 1, 200)) return "id";
  if (!isText(event.type, 1, 200)) return "type";
  if (!Number.isSafeInteger(event.timestamp)) return "timestamp";
  if (!isObject(event.payload)) return "payload";
  if (!isAbsent(event.runId) && !isText(event.runId, 1, 200)) return "runId";
  if (!isAbsent(event.project) && !isText(event.project, 1, 200)) return "project";
  const check = CHECKS[event.type];
  const problem = check === undefined ? ownedByServer(event.type) : check(event.payload);
  return problem;
}

function ownedByServer(type) {
  return /^(system\/client|run\/(start|join|leave|end|refused|deleted)|stream\/)/.test(type) ? "type" : null;
}

function identified(payload) {
  if (!isText(payload.testId, 1, MAX_TEST_ID)) return "payload.testId";
  if (!isName(payload.testName)) return "payload.testName";
  if (!isName(payload.fullName)) return "payload.fullName";
  if (!isList(payload.suitePath, isString)) return "payload.suitePath";
  if (!isId(payload.suiteId)) return "payload.suiteId";
  if (!isId(payload.parentId)) return "payload.parentId";
  if (!isAttempt(payload.attempt)) return "payload.attempt";
  if (!isCount(payload.maxAttempts)) return "payload.maxAttempts";
  if (!isFlag(payload.willRetry)) return "payload.willRetry";
  if (!isName(payload.workerId)) return "payload.workerId";
  if (!isMap(payload.shard)) return "payload.shard";
  if (!isName(payload.filePath)) return "payload.filePath";
  if (!isCount(payload.line)) return "payload.line";
  if (!isCount(payload.column)) return "payload.column";
  if (!isList(payload.tags, isString)) return "payload.tags";
  if (!isMap(payload.labels)) return "payload.labels";
  if (!isMap(payload.parameters)) return "payload.parameters";
  if (!isList(payload.properties, () => true)) return "payload.properties";
  if (!isMap(payload.extra)) return "payload.extra";
  return null;
}

function testEnd(payload) {
  const problem = identified(payload);
  if (problem !== null) return problem;
  if (!isAbsent(payload.status) && !isText(payload.status, 0, 100)) return "payload.status";
  if (!isName(payload.rawStatus)) return "payload.rawStatus";
  if (!isAbsent(payload.expectedStatus) && !isText(payload.expectedStatus, 0, 100)) return "payload.expectedStatus";
  if (!isFlag(payload.ok)) return "payload.ok";
  if (!isAbsent(payload.reason) && !isString(payload.reason)) return "payload.reason";
  if (!isList(payload.errors, isObject)) return "payload.errors";
  if (!isMilliseconds(payload.startedAt)) return "payload.startedAt";
  if (!isMilliseconds(payload.endedAt)) return "payload.endedAt";
  if (!isMilliseconds(payload.durationMs)) return "payload.durationMs";
  return null;
}

function suite(payload) {
  if (!isText(payload.suiteId, 1, MAX_TEST_ID)) return "payload.suiteId";
  if (!isName(payload.suiteName)) return "payload.suiteName";
  if (!isId(payload.parentId)) return "payload.parentId";
  return isName(payload.filePath) ? null : "payload.filePath";
}

function step(payload) {
  if (!isText(payload.testId, 1, MAX_TEST_ID)) return "payload.testId";
  if (!isName(payload.stepId)) return "payload.stepId";
  if (!isName(payload.parentStepId)) return "payload.parentStepId";
  if (!isName(payload.title)) return "payload.title";
  return isName(payload.category) ? null : "payload.category";
}

function output(payload) {
  if (!isId(payload.testId)) return "payload.testId";
  if (!isAttempt(payload.attempt)) return "payload.attempt";
  if (!isAbsent(payload.stream) && !STREAMS.has(payload.stream)) return "payload.stream";
  if (!isText(payload.text, 0, 1024 * 1024)) return "payload.text";
  return isFlag(payload.truncated) ? null : "payload.truncated";
}

const plan = (payload) => (isCount(payload.total) && isList(payload.ids, isString) ? null : "payload");
const runError = (payload) => (isList(payload.errors, isObject) ? null : "payload.errors");

const CHECKS = {
  __proto__: null,
  "test/start": identified,
  "test/end": testEnd,
  "test/suite/start": suite,
  "test/suite/end": suite,
  "test/step/start": step,
  "test/step/end": step,
  "test/output": output,
  "run/plan": plan,
  "run/error": runError,
};
