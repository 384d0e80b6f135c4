// What the page's modules answer, for test_web.py: a JSON object { call, … } on standard input, the answer as JSON on standard output.
// Bytes travel as base64, and a refusal is { refused: its sentence }.

import { readFileSync } from 'node:fs';

import { copied, readAdapter, writeAdapter } from '../../backends/web/page/adapters.mjs';
import { adamw, clip, factorOf, initialState } from '../../backends/web/page/adamw.mjs';
import { Bench } from '../../backends/web/page/bench.mjs';
import { batchesOf } from '../../backends/web/page/order.mjs';
import { Refused } from '../../backends/web/page/refused.mjs';
import { examplesOf, shareOf } from '../../backends/web/page/rows.mjs';
import { expand, initial, readFile } from '../../conformance_tests/examples/unilora.mjs';

const bytesOf = (text) => new Uint8Array(Buffer.from(text, 'base64'));
const textOf = (bytes) => Buffer.from(bytes).toString('base64');
const floatsOf = (object) => new Map(Object.entries(object).map(([name, values]) => [name, Float32Array.from(values)]));
const numbersOf = (parameters) => Object.fromEntries([...parameters].map(([name, values]) => [name, [...values]]));

/**
 * A model without a graph, for the loop of a training: its logits are theta · the counts of the tokens 0 … 3 in a row, once with either
 * sign; its gradients are right. With `broken`, the loss of that step is no number.
 */
function runtimeOf(broken) {
  let steps = 0;
  const run = (feeds) => {
    const [rows, width] = feeds.input_ids.dims;
    const theta = feeds.theta.data;
    const logits = new Float32Array(2 * rows);
    const gradient = new Float32Array(theta.length);
    let loss = 0;
    for (let row = 0; row < rows; row += 1) {
      const counts = theta.map((_, token) => {
        let count = 0;
        for (let k = 0; k < width; k += 1) {
          const at = row * width + k;
          count += feeds.attention_mask.data[at] === 1n && feeds.input_ids.data[at] === BigInt(token);
        }
        return count;
      });
      const score = counts.reduce((sum, count, token) => sum + count * theta[token], 0);
      logits.set([-score, score], 2 * row);
      const sign = feeds.labels.data[row] === 1n ? 1 : -1;
      loss += Math.log1p(Math.exp(-2 * sign * score)) / rows;
      counts.forEach((count, token) => {
        gradient[token] -= 2 * sign * count / (1 + Math.exp(2 * sign * score)) / rows;
      });
    }
    steps += 1;
    return {
      loss: { data: [steps === broken ? NaN : loss] }, logits: { data: logits, dims: [rows, 2] }, 'theta.grad': { data: gradient },
    };
  };
  const session = {
    inputNames: ['input_ids', 'attention_mask', 'labels', 'theta'],
    outputNames: ['loss', 'logits', 'theta.grad'],
    inputMetadata: [{ name: 'theta', shape: [4] }],
    outputMetadata: [{ name: 'logits', shape: ['batch', 2] }],
    run: async (feeds) => run(feeds),
    release() {},
  };
  const Tensor = class {
    constructor(dtype, data, dims) {
      Object.assign(this, { data, dims });
    }
  };
  return async () => ({ load: async () => session, Tensor, device: 'JavaScript', threads: 1 });
}

/** Tokens that are a text's letters a to d. */
class Letters {
  encode(text) {
    return { ids: [...text].map((letter) => letter.charCodeAt(0) - 97) };
  }

  token_to_id() {
    return 0;
  }
}

/** Without quotes, as csv-parse is npm's. */
const parse = (text, { delimiter }) => text.trim().split('\n').map((line) => line.split(delimiter));

const choice = { text: 'text', label: 'label', where: '', holdout: 0.2, limit: 0, measure: 0 };
const settings = {
  steps: 40, size: 4, rate: 0.1, headRate: 0.1, warmup: 0.1, clip: 1, decay: 0, every: 10, most: 16, seed: 3n,
};

async function bench({ files, table, broken, plan }) {
  const events = [];
  const made = new Bench({ runtime: runtimeOf(broken), Tokenizer: Letters, parse, tell: (what) => events.push(what) });
  const sources = Object.fromEntries(Object.entries(files).map(([role, { name, bytes }]) => [role, { name, bytes: bytesOf(bytes) }]));
  const answers = [];
  for (const [call, ...values] of plan) {
    const given = {
      open: () => [sources],
      read: () => [{ name: 'rows.csv', text: table }],
      choose: () => [{ ...choice, ...values[0] }],
      train: () => [{ ...settings, ...values[0] }],
      measure: () => [settings.most],
      predict: () => [values[0], settings.most],
      openAdapter: () => [sources[values[0]]],
      openState: () => [sources[values[0]]],
      saveState: () => [settings],
    }[call]?.() ?? values;
    try {
      if (call === 'stopAt') {
        const told = made.tell;
        made.tell = (what) => (what.event === 'step' && what.step === values[0] ? made.stop() : told(what));
      } else if (call === 'theta') {
        answers.push([...made.selected.parameters.get('theta')]);
      } else {
        const answer = await made[call](...given);
        answers.push(answer?.bytes instanceof Uint8Array ? { ...answer, bytes: textOf(answer.bytes) } : answer);
      }
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      answers.push({ refused: error.message });
    }
  }
  return { answers, events };
}

const CALLS = {
  /** Steps on gradients that are given, each { name: numbers }; the parameters and the norm after each. */
  adamw({ parameters, gradients, rates, decay, most, warmup }) {
    const trained = floatsOf(parameters);
    const state = initialState(trained);
    return gradients.map((given, step) => {
      const found = floatsOf(given);
      const norm = clip(found, most);
      const factor = factorOf(step, gradients.length, warmup);
      const each = (value) => new Map([...trained.keys()].map((name) => [name, value(name)]));
      adamw(trained, state, found, each((name) => rates[name] * factor), each(() => decay));
      return { norm, factor, parameters: numbersOf(copied(trained)) };
    });
  },

  batches: ({ lengths, size, seed, epochs }) => epochs.map((epoch) => batchesOf(lengths, size, BigInt(seed), epoch)),

  shares: ({ texts }) => Promise.all(texts.map(shareOf)),

  examples: ({ table, choice: given, known }) => examplesOf(table, { ...choice, ...given }, known),

  adapter({ file, labels }) {
    const adapter = readAdapter(bytesOf(file), 'a.safetensors');
    const { projection, segments } = readFile(bytesOf(file)).description;
    return {
      parameters: numbersOf(adapter.parameters),
      written: textOf(writeAdapter(adapter)),
      labelled: textOf(writeAdapter({ ...adapter, labels })),
      expanded: [...expand(projection, adapter.parameters.get('theta'), 0, projection.D)],
      initial: [...initial(projection, segments, 0.02)],
    };
  },

  bench,
};

const given = JSON.parse(readFileSync(0, 'utf8'));
try {
  console.log(JSON.stringify(await CALLS[given.call](given)));
} catch (error) {
  if (!(error instanceof Refused)) {
    throw error;
  }
  console.log(JSON.stringify({ refused: error.message }));
}
