// A step graph: one run gives the loss of a batch and its gradients by all trained parameters (docs/step-graph.md has the contract).

import { OnnxFile } from './onnx.mjs';
import { ensure, Refused } from './refused.mjs';

const GRADIENT = '.grad';

/** A step graph that ONNX Runtime runs. Calls may overlap; their runs are one after the other. */
export class StepGraph {
  /**
   * `bytes` are those of the file called `name`; `load` makes a session of ONNX Runtime of bytes and the names of nodes that are too wide
   * for a GPU; `Tensor` is ONNX Runtime's class.
   * Refuses what is no step graph of a classification.
   */
  static async open(bytes, name, load, Tensor) {
    const file = new OnnxFile(bytes, name);
    const metadata = file.metadata();
    const mode = metadata.get('unilora.mode');
    ensure(mode === 'step', () => (
      `${name} is no step graph${mode ? `, but one of mode ${mode}` : ''}; make one by python -m export onnx --mode step`));
    const task = metadata.get('unilora.task');
    ensure(!task || task === 'classification', `${name} is for the task ${task}, and the page trains classification; give a graph of that`);
    return new StepGraph(file, metadata, await loaded(load, file), load, Tensor);
  }

  constructor(file, metadata, session, load, Tensor) {
    const { bytes, name } = file;
    Object.assign(this, { file, bytes, name, metadata, session, load, Tensor, last: Promise.resolve() });
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

  /** The logits of a batch, rows of numbers: by a second session without the backward half, which costs about half of a step. */
  async logits(batch, parameters) {
    this.forward ??= loaded(this.load, this.file.upTo('logits'));
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
    this.last = answer.catch(() => {}); // the caller that waits for the answer gets the error
    return answer;
  }

  async close() {
    await this.last;
    await this.session.release();
    await (await this.forward)?.release();
  }
}

async function loaded(load, file) {
  try {
    return await load(file.bytes, file.wideNodes());
  } catch (error) {
    throw new Refused(`${file.name}: ONNX Runtime does not take this graph: ${String(error.message ?? error).slice(0, 300)}`);
  }
}

function rowsOf({ data, dims: [count, width] }) {
  return Array.from({ length: count }, (_, row) => Array.from(data.subarray(row * width, (row + 1) * width)));
}
