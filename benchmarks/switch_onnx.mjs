// Times adapters that are switched in onnxruntime-node or onnxruntime-web, for web_switch.py: node switch_onnx.mjs FOLDER PACKAGE < job.json
// FOLDER has the packages. A job is {ids: [[…]], sessions: [FILE.onnx, …], adapters: [ADAPTER, …], rounds}: where there is one session, each
// adapter is fed to it, as {theta: FILE.safetensors} or {name: {dims, data}}; where there are several, each holds an adapter.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, name] = process.argv.slice(2);
const require = createRequire(path.resolve(folder, "package.json"));
const module = await import(pathToFileURL(require.resolve(name)));
const ort = module.InferenceSession ? module : module.default;
ort.env.logLevel = "fatal";
const job = JSON.parse(fs.readFileSync(0));

// θ of an adapter's file: eight bytes that say how long the header is, the header as JSON, the tensors.
function theta(file) {
  const bytes = fs.readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const { dtype, shape, data_offsets } = JSON.parse(bytes.toString("utf8", 8, 8 + length)).theta;
  if (dtype !== "F32") throw new Error(`θ is stored as ${dtype}`);
  const [begin, end] = data_offsets.map((offset) => 8 + length + offset);
  return new ort.Tensor("float32", new Float32Array(bytes.buffer.slice(bytes.byteOffset + begin, bytes.byteOffset + end)), shape);
}

function read(adapter) {
  if (adapter.theta) return { theta: theta(adapter.theta) };
  const tensors = Object.entries(adapter).map(([key, { dims, data }]) => [key, new ort.Tensor("float32", Float32Array.from(data), dims)]);
  return Object.fromEntries(tensors);
}

const integers = (value) => new ort.Tensor("int64", BigInt64Array.from(job.ids[0].map((id) => BigInt(value ?? id))), [1, job.ids[0].length]);
const inputs = { input_ids: integers(), attention_mask: integers(1), token_type_ids: integers(0) };
// What is fed lies in JavaScript's buffers; a session has its own memory, which only the process's tells.
async function memory() {
  for (let turn = 0; turn < 5; turn++) {
    global.gc();
    await new Promise((then) => setTimeout(then, 50)); // what a run has fed is freed a turn later
  }
  return process.memoryUsage()[job.sessions.length > 1 ? "rss" : "arrayBuffers"];
}
const timed = async (work) => {
  const begin = performance.now();
  const result = await work();
  return [performance.now() - begin, result];
};
const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];
const load = (file) => ort.InferenceSession.create(new Uint8Array(fs.readFileSync(file)));

const [loading, first] = await timed(() => load(job.sessions[0]));
const sessions = [first], kept = [job.adapters.length ? read(job.adapters[0]) : {}];
await first.run({ ...inputs, ...kept[0] });
const before = await memory();
const news = [];
for (let n = 1; n < Math.max(job.sessions.length, job.adapters.length); n++) {
  news.push((await timed(async () => {
    if (job.sessions.length > 1) sessions.push(await load(job.sessions[n]));
    else kept.push(read(job.adapters[n]));
  }))[0]);
  await (sessions[n] ?? first).run({ ...inputs, ...(kept[n] ?? {}) });
}
const grown = (await memory()) - before;

// The same adapter again and again, and another in each run, in turns.
const same = [], other = [], answers = [];
for (let round = 0; round < job.rounds; round++) {
  const n = round % (news.length + 1);
  same.push((await timed(() => first.run({ ...inputs, ...kept[0] })))[0]);
  other.push((await timed(() => (sessions[n] ?? first).run({ ...inputs, ...(kept[n] ?? {}) })))[0]);
}
for (let n = 0; n <= news.length; n++) {
  const found = await (sessions[n] ?? first).run({ ...inputs, ...(kept[n] ?? {}) });
  answers.push(Array.from(found[first.outputNames[0]].data.slice(0, 384)));
}
const report = { loading, news: median(news), same: median(same), other: median(other), grown: grown / news.length, answers };
process.stdout.write(JSON.stringify(report), () => process.exit(0));
