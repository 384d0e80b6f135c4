// Runs ONNX files in onnxruntime-node or onnxruntime-web, for runtimes.py: node run_onnx.mjs FOLDER PACKAGE < runs.json > answers.json
// FOLDER has the packages; a run is {file, feed: {name: {type, dims, data}}}, an answer is {name: [numbers]} or {refused: why}.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, name] = process.argv.slice(2);
const require = createRequire(path.resolve(folder, "package.json"));
const module = await import(pathToFileURL(require.resolve(name)));
const ort = module.InferenceSession ? module : module.default;
ort.env.logLevel = "fatal";

const tensor = ({ type, dims, data }) =>
  new ort.Tensor(type, type === "int64" ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data), dims);

const answers = [];
for (const { file, feed } of JSON.parse(fs.readFileSync(0))) {
  try {
    const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(file)));
    const fed = Object.fromEntries(Object.entries(feed).map(([key, value]) => [key, tensor(value)]));
    const found = Object.entries(await session.run(fed));
    answers.push(Object.fromEntries(found.map(([key, value]) => [key, Array.from(value.data, String)])));
  } catch (error) {
    answers.push({ refused: String(error) });
  }
}
process.stdout.write(JSON.stringify(answers), () => process.exit(0));
