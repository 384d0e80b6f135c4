// A step graph: one run gives the loss of a batch and its gradient by all that is trained (docs/web.md has the contract).

import { ensure, Refused } from './refused.mjs';

// The numbers of fields in onnx.proto.
const MODEL = { graph: 7, metadata: 14 };
const GRAPH = { node: 1, output: 12 };
const NODE = { input: 1, output: 2, name: 3 };
const VALUE = { name: 1 };
const ENTRY = { key: 1, value: 2 };
const GRADIENT = '.grad';
const BUFFERS = 8;

/** A step graph that ONNX Runtime runs. Calls may overlap; their runs are one after the other. */
export class StepGraph {
  /**
   * `bytes` are those of the file called `name`; `load` makes a session of ONNX Runtime of bytes and the names of nodes that are too wide
   * for a GPU; `Tensor` is ONNX Runtime's class.
   * Refuses what is no step graph of a classification.
   */
  static async open(bytes, name, load, Tensor) {
    const metadata = metadataOf(bytes, name);
    const mode = metadata.get('unilora.mode');
    ensure(mode === 'step', () => (
      `${name} is no step graph${mode ? `, but one of mode ${mode}` : ''}; make one by python -m export onnx --mode step`));
    const task = metadata.get('unilora.task');
    ensure(!task || task === 'classification', `${name} is for the task ${task}, and the page trains classification; give a graph of that`);
    return new StepGraph(bytes, name, metadata, await loaded(load, bytes, name), load, Tensor);
  }

  constructor(bytes, name, metadata, session, load, Tensor) {
    Object.assign(this, { bytes, name, metadata, session, load, Tensor, last: Promise.resolve() });
    this.trained = session.outputNames.filter((output) => output.endsWith(GRADIENT)).map((output) => output.slice(0, -GRADIENT.length));
    const own = new Set([...this.trained, 'labels']);
    const inputs = session.inputNames;
    const lacking = ['labels', ...this.trained].find((input) => !inputs.includes(input))
      ?? ['loss', 'logits', `theta${GRADIENT}`].find((output) => !session.outputNames.includes(output));
    ensure(lacking === undefined, `${name} has no "${lacking}"; make it by python -m export onnx --mode step`);
    this.inputs = inputs.filter((input) => !own.has(input)); // the model's own
    this.outputs = session.outputMetadata.find(({ name: output }) => output === 'logits').shape[1]; // how many classes there are
  }

  /** The shape of an input, a list of numbers, and of texts where an axis is free. */
  shapeOf(input) {
    return this.session.inputMetadata.find((each) => each.name === input).shape;
  }

  /**
   * { loss, logits, gradients } of a batch: a number, rows of numbers, and a Map of Float32Arrays by parameter. `batch` is as
   * `Tokens.batch` gives it, `labels` are numbers of classes, `parameters` is a Map of Float32Arrays.
   */
  async step(batch, labels, parameters) {
    const outputs = await this.run(this.session, batch, labels, parameters);
    const gradients = new Map(this.trained.map((name) => [name, outputs[name + GRADIENT].data]));
    return { loss: outputs.loss.data[0], logits: rowsOf(outputs.logits), gradients };
  }

  /** The logits of a batch, rows of numbers: by a second session without the backward half, which costs a third of a step. */
  async logits(batch, parameters) {
    this.forward ??= loaded(this.load, forwardOnly(this.bytes, this.name), this.name);
    const labels = new Array(batch[this.inputs[0]].dims[0]).fill(0);
    return rowsOf((await this.run(await this.forward, batch, labels, parameters)).logits);
  }

  run(session, batch, labels, parameters) {
    const feeds = { labels: new this.Tensor('int64', BigInt64Array.from(labels, BigInt), [labels.length]) };
    for (const [name, { data, dims }] of Object.entries(batch)) {
      feeds[name] = new this.Tensor('int64', data, dims);
    }
    for (const [name, values] of parameters) {
      feeds[name] = new this.Tensor('float32', values, this.shapeOf(name));
    }
    const answer = this.last.then(() => session.run(feeds));
    this.last = answer.catch(() => {}); // whoever waits for the answer is told
    return answer;
  }

  async close() {
    await this.last;
    await this.session.release();
    await (await this.forward)?.release();
  }
}

async function loaded(load, bytes, name) {
  try {
    return await load(bytes, wideNodes(bytes, name));
  } catch (error) {
    throw new Refused(`${name}: ONNX Runtime does not take this graph: ${String(error.message ?? error).slice(0, 300)}`);
  }
}

function rowsOf({ data, dims: [count, width] }) {
  return Array.from({ length: count }, (_, row) => Array.from(data.subarray(row * width, (row + 1) * width)));
}

// ---- The file, as protobuf has it: ONNX Runtime tells JavaScript nothing of a model's metadata ---------------------------

/** What the file says of itself, as a Map of texts. */
function metadataOf(bytes, name) {
  const found = new Map();
  for (const field of fieldsOf(bytes, 0, bytes.length, name)) {
    if (field.number === MODEL.metadata) {
      found.set(...[ENTRY.key, ENTRY.value].map((wanted) => textsOf(bytes, field, wanted, name)[0] ?? ''));
    }
  }
  return found;
}

/**
 * The bytes of a model whose one output is "logits", without the nodes that it does not need: ONNX Runtime runs all that a file has,
 * whatever a call asks for. Nodes come in the order of their runs, so one look from the end finds those that are needed.
 */
function forwardOnly(bytes, name) {
  const pieces = [];
  for (const { number, begin, start, end } of fieldsOf(bytes, 0, bytes.length, name)) {
    const parts = number === MODEL.graph ? neededOf(bytes, start, end, name) : [];
    if (number === MODEL.graph) {
      pieces.push(bytes.subarray(begin, begin + 1), varint(parts.reduce((sum, part) => sum + part.length, 0)), ...parts);
    } else {
      pieces.push(bytes.subarray(begin, end));
    }
  }
  const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}

/** The fields of a graph that "logits" needs, as bytes. */
function neededOf(bytes, from, to, name) {
  const needed = new Set(['logits']);
  const texts = (field, wanted) => textsOf(bytes, field, wanted, name);
  const kept = [...fieldsOf(bytes, from, to, name)].reverse().filter((field) => {
    if (field.number === GRAPH.output) {
      return texts(field, VALUE.name)[0] === 'logits';
    }
    if (field.number !== GRAPH.node) {
      return true;
    }
    const isNeeded = texts(field, NODE.output).some((output) => needed.has(output));
    if (isNeeded) {
      texts(field, NODE.input).forEach((input) => needed.add(input));
    }
    return isNeeded;
  });
  return kept.reverse().map(({ begin, end }) => bytes.subarray(begin, end));
}

/**
 * The names of nodes with more inputs and outputs than a GPU takes: the one that cuts θ_D into A and B of every layer, and its adjoint. Of
 * WebGPU each is a buffer, eight are what every GPU has, and ONNX Runtime 1.30 does not divide them up.
 */
function wideNodes(bytes, name) {
  const graph = [...fieldsOf(bytes, 0, bytes.length, name)].find(({ number }) => number === MODEL.graph);
  const nodes = graph ? [...fieldsOf(bytes, graph.start, graph.end, name)].filter(({ number }) => number === GRAPH.node) : [];
  const texts = (field, wanted) => textsOf(bytes, field, wanted, name);
  return nodes.filter((node) => texts(node, NODE.input).length + texts(node, NODE.output).length > BUFFERS).map((node) => texts(node, NODE.name)[0]);
}

/** The fields of a message: { number, begin, start, end }, where the field is bytes[begin, end) and its content bytes[start, end). */
function* fieldsOf(bytes, from, to, name) {
  let at = from;
  const number = () => {
    let [value, unit] = [0, 1];
    for (;;) {
      const byte = bytes[at];
      ensure(at < to && unit < 2 ** 63, `${name} is no ONNX file, or a damaged one; give the graph that the exporter wrote`);
      at += 1;
      value += (byte & 0x7F) * unit;
      if (byte < 0x80) {
        return value;
      }
      unit *= 128;
    }
  };
  const sizes = { 0: () => number() * 0, 1: () => 8, 2: number, 5: () => 4 };
  while (at < to) {
    const begin = at;
    const tag = number();
    const size = sizes[tag % 8]?.();
    const end = at + (size ?? NaN);
    ensure(end <= to, `${name} is no ONNX file, or a damaged one; give the graph that the exporter wrote`);
    yield { number: Math.floor(tag / 8), begin, start: at, end };
    at = end;
  }
}

/** The texts of a message that have the number `wanted`. */
function textsOf(bytes, { start: from, end: to }, wanted, name) {
  return [...fieldsOf(bytes, from, to, name)].filter(({ number }) => number === wanted)
    .map(({ start, end }) => new TextDecoder().decode(bytes.subarray(start, end)));
}

function varint(value) {
  const bytes = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) {
    bytes.push(rest % 128 + 128);
  }
  return Uint8Array.from([...bytes, rest]);
}
