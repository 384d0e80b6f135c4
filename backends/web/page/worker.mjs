// The worker: it computes while the page stays alive. A message { id, call, values } calls the bench, and is answered by one with its id.

import { parse } from '../../../packages/csv-parse/dist/esm/sync.js';
import { Tokenizer } from '../../../packages/@huggingface/tokenizers/dist/tokenizers.min.mjs';
import { Bench } from './bench.mjs';
import { ensure, Refused } from './refused.mjs';

const RUNTIME = new URL('../../../packages/onnxruntime-web/dist/', import.meta.url).href;
const ERRORS = 3; // of ONNX Runtime's words: it would warn of each weight that the forward half lacks
const MOST_THREADS = 8; // of small batches more of them wait for each other

/** ONNX Runtime by WebGPU where the browser has it, and by WebAssembly elsewhere, with threads where memory can be shared. */
async function runtime(wanted) {
  const gpu = wanted === 'wasm' ? undefined : await navigator.gpu?.requestAdapter();
  ensure(gpu || wanted !== 'webgpu', 'this browser has no WebGPU; choose automatic or WebAssembly');
  const byGpu = gpu && (wanted === 'webgpu' || !gpu.info?.isFallbackAdapter); // a GPU in software is slower than WebAssembly
  const ort = await import(`${RUNTIME}${byGpu ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs'}`);
  const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  Object.assign(ort.env.wasm, { wasmPaths: RUNTIME, numThreads: threads });
  return {
    load(bytes, wideNodes) {
      const providers = byGpu ? [{ name: 'webgpu', forceCpuNodeNames: wideNodes }, 'wasm'] : ['wasm'];
      return ort.InferenceSession.create(bytes, { executionProviders: providers, logSeverityLevel: ERRORS });
    },
    Tensor: ort.Tensor,
    device: byGpu ? 'WebGPU' : 'WebAssembly',
    threads,
  };
}

/** The bytes of a source, a chosen file or an address; an event says how much has been loaded. */
async function bytesOf({ name, file, url }) {
  if (file) {
    return { name, bytes: new Uint8Array(await file.arrayBuffer()) };
  }
  const response = await fetch(url);
  ensure(response.ok, `${name} could not be loaded: the server says ${response.status}; choose the file yourself`);
  const all = Number(response.headers.get('Content-Length'));
  const bytes = new Uint8Array(all);
  let done = 0;
  for await (const piece of piecesOf(response.body)) {
    bytes.set(piece, done);
    done += piece.length;
    postMessage({ event: 'loading', name, done, all });
  }
  return { name, bytes };
}

async function* piecesOf(stream) {
  const reader = stream.getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    yield value;
  }
}

const bench = new Bench({ runtime, Tokenizer, parse, tell: (what) => postMessage(what) });

/** The calls whose values are files or addresses; the others are the bench's own. */
const CALLS = {
  async open(sources, device) {
    const files = {};
    for (const [role, source] of Object.entries(sources)) {
      files[role] = source && await bytesOf(source);
    }
    return bench.open(files, device);
  },

  async read(source) {
    const text = source.text ?? new TextDecoder().decode((await bytesOf(source)).bytes);
    return bench.read({ name: source.name, text });
  },

  async openAdapter(source) {
    return bench.openAdapter(await bytesOf(source));
  },

  async openState(source) {
    return bench.openState(await bytesOf(source));
  },
};

onmessage = async ({ data: { id, call, values } }) => {
  try {
    const answer = await (CALLS[call] ? CALLS[call](...values) : bench[call](...values));
    postMessage({ id, answer });
  } catch (error) {
    const sentence = error instanceof Refused ? error.message : `unexpected ${error.name}: ${error.message}; the console of the browser has more`;
    if (!(error instanceof Refused)) {
      console.error(error);
    }
    postMessage({ id, sentence });
  }
};
