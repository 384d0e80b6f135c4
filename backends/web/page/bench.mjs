// The state of the page: a graph, examples, and adapters in memory, one of them selected. It runs in the worker, and in node for tests.

import {
  checkFits, copied, copyOf, readAdapter, sizeOf, writeAdapter,
} from './adapters.mjs';
import { initialState } from './adamw.mjs';
import { StepGraph } from './graph.mjs';
import { ensure } from './refused.mjs';
import { examplesOf, readTable } from './rows.mjs';
import { readState, writeState } from './state.mjs';
import { Tokens } from './tokens.mjs';
import { likeliest, measure, nextStep, scoresOf } from './training.mjs';

const pause = () => new Promise((resolve) => { setTimeout(resolve); }); // so that a worker's messages come in between

export class Bench {
  /**
   * `runtime` makes { load, Tensor, device, threads } of "auto", "webgpu" or "wasm"; `Tokenizer` is of @huggingface/tokenizers, `parse` of
   * csv-parse, and `tell` is called with events while a call goes on.
   */
  constructor({ runtime, Tokenizer, parse, tell }) {
    Object.assign(this, { runtime, Tokenizer, parse, tell, adapters: [], selected: undefined, number: 0, training: false });
  }

  /**
   * A graph, the adapter beside it and the base's tokens, files as { name, bytes }; replaces what was there once all three are sound.
   * `configuration` is that of the tokens, { name, bytes } or undefined. Returns what the page shows of it.
   */
  async open({ graph, adapter, tokenizer, configuration }, device) {
    ensure(!this.training, 'a training goes on; stop it before another graph is opened');
    ensure(graph, 'there is no step graph; choose a file step.onnx, which python -m export onnx --mode step makes');
    ensure(adapter, `there is no adapter beside ${graph.name}; choose the .safetensors that the exporter wrote beside it too`);
    ensure(tokenizer, `there is no tokenizer.json beside ${graph.name}; choose that of the base model too`);
    const tokens = new Tokens(this.Tokenizer, jsonOf(tokenizer), configuration ? jsonOf(configuration) : {});
    const start = readAdapter(adapter.bytes, adapter.name);
    const opened = await this.loaded(graph, tokens, device);
    checkFits(start, opened.graph);
    await this.graph?.close();
    Object.assign(this, opened, { tokens, start, adapters: [], examples: undefined });
    this.add(start, stem(adapter.name));
    return this.summary();
  }

  /** Runs the same graph on another device; adapters and examples stay. */
  async move(device) {
    this.current();
    ensure(!this.training, 'a training goes on; stop it before the graph runs elsewhere');
    const opened = await this.loaded(this.graph, this.tokens, device);
    await this.graph.close();
    Object.assign(this, opened);
    return this.summary();
  }

  /** A graph that has run once, and where: what "auto" chose may lack something that the graph needs, and then it is WebAssembly. */
  async loaded({ name, bytes }, tokens, wanted) {
    const { load, Tensor, device, threads } = await this.runtime(wanted);
    try {
      const graph = await StepGraph.open(bytes, name, load, Tensor);
      if (device === 'WebGPU') {
        const zeros = new Map(graph.trained.map((each) => [each, new Float32Array(sizeOf(graph.shapeOf(each)))]));
        const { loss } = await graph.step(tokens.batch(['a', 'b'], graph.inputs, 8), [0, 0], zeros);
        ensure(Number.isFinite(loss), `${name} gives no number by WebGPU here; choose WebAssembly`);
      }
      return { graph, where: { device, threads } };
    } catch (error) {
      if (wanted !== 'auto' || device !== 'WebGPU') {
        throw error;
      }
      return this.loaded({ name, bytes }, tokens, 'wasm');
    }
  }

  /** What the page shows of the graph. */
  summary() {
    const { kind, d, D } = this.start.projection;
    const beside = [...this.start.parameters].reduce((sum, [name, values]) => sum + (name === 'theta' ? 0 : values.length), 0);
    const base = this.graph.metadata.get('unilora.base');
    return { kind, d, D, beside, base, bytes: this.graph.bytes.length, ...this.where };
  }

  /** Reads a table, and returns its columns and rows. The examples follow by `choose`. */
  read({ name, text }) {
    this.table = readTable(text, name, this.parse);
    return { columns: this.table.columns, rows: this.table.records.length };
  }

  /** Takes examples from the table: how many there are to train on and held out, and what was left out. */
  async choose(choice) {
    ensure(!this.training, 'a training goes on; stop it before other examples are taken');
    ensure(this.table, 'there are no examples; open a .csv file, or type some');
    const found = await examplesOf(this.table, choice, this.selected?.labels);
    const outputs = this.graph?.outputs;
    ensure(!outputs || found.names.length <= outputs, () => (
      `${this.table.name} has ${found.names.length} classes, and ${this.graph.name} has ${outputs} outputs; make a graph of as many`));
    this.examples = found;
    return { train: found.train.length, heldOut: found.heldOut.length, names: found.names, dropped: found.dropped };
  }

  /**
   * Trains the selected adapter until it has `settings.steps` steps (training.mjs has the others), or `stop` is called; a later call goes
   * on. Held-out rows are measured at the start, every `settings.every` steps, and at the end. The start is measured after the first step, so
   * that the user sees the first step sooner.
   */
  async train(settings) {
    const [adapter, examples] = [this.ready(), this.examples];
    ensure(!this.training, 'a training goes on already; stop it first');
    adapter.state ??= initialState(adapter.parameters);
    const { state } = adapter;
    const run = runOf(settings, examples);
    const other = Object.keys(adapter.begun ?? {}).find((what) => adapter.begun[what] !== run[what]);
    ensure(!other, () => (
      `${adapter.name} goes on from a state of ${adapter.begun[other]} ${RUN[other]}, and these are ${run[other]}; give the same`));
    ensure(state.step < settings.steps, `${adapter.name} has had ${state.step} steps; give more than that, or start over`);
    Object.assign(this, { training: true, stopping: false });
    adapter.labels = examples.names;
    try {
      const start = state.step === 0 ? copied(adapter.parameters) : undefined;
      while (state.step < settings.steps && !this.stopping) {
        const began = performance.now();
        const { loss, rate } = await nextStep(this.graph, this.tokens, examples.train, adapter.parameters, state, settings);
        adapter.losses.push({ step: state.step, loss });
        this.tell({ event: 'step', id: adapter.id, step: state.step, loss, rate, seconds: (performance.now() - began) / 1000 });
        if (start && state.step === 1) {
          await this.measured(adapter, settings.most, 0, start);
        }
        if (state.step === settings.steps || (settings.every && state.step % settings.every === 0)) {
          await this.measured(adapter, settings.most);
        }
        await pause();
      }
    } finally {
      this.training = false;
    }
    return { step: state.step, stopped: state.step < settings.steps };
  }

  stop() {
    this.stopping = true;
  }

  /** The selected adapter on the held-out rows: { accuracy, loss, rows }. */
  measure(most) {
    return this.measured(this.ready(), most);
  }

  /** The `parameters` of an adapter after so many steps, kept with it. */
  async measured(adapter, most, step = adapter.state?.step ?? 0, parameters = adapter.parameters) {
    const rows = this.examples.heldOut;
    if (rows.length === 0) {
      return undefined;
    }
    const tell = (done, all) => this.tell({ event: 'measuring', done, all });
    const found = { ...await measure(this.graph, this.tokens, rows, parameters, most, tell), rows: rows.length };
    adapter.measured = [...adapter.measured.filter((each) => each.step !== step), { step, ...found }];
    this.tell({ event: 'measured', id: adapter.id, step, ...found });
    return found;
  }

  /** What the selected adapter says of texts: for each { label, probability, all: [[label, probability], …] }. */
  async predict(texts, most) {
    const adapter = this.current();
    const found = [];
    for (const text of texts) {
      const [scores] = await scoresOf(this.graph, this.tokens, [text], adapter.parameters, most);
      const names = adapter.labels ?? this.examples?.names ?? [];
      const all = scores.map((score, k) => [names[k] ?? `class ${k}`, score]);
      const [label, probability] = all[likeliest(scores)];
      found.push({ text, label, probability, all });
    }
    return found;
  }

  // ---- Adapters ---------------------------------------------------------------------------------------------------

  list() {
    return this.adapters.map(({ id, name, state, losses, measured }) => ({
      id, name, steps: state?.step ?? 0, losses, measured, selected: id === this.selected.id,
    }));
  }

  select(id) {
    this.selected = this.adapters.find((adapter) => adapter.id === id);
    return this.list();
  }

  /** Takes the adapter of a file { name, bytes } beside the others, and selects it. */
  openAdapter({ name, bytes }) {
    this.current();
    const adapter = readAdapter(bytes, name);
    checkFits(adapter, this.graph);
    return this.add(adapter, stem(name));
  }

  /** One more adapter, as the graph's own begins. */
  fresh() {
    this.current();
    return this.add(copyOf(this.start), `${stem(this.start.name)} anew`);
  }

  /** The file of the selected adapter: { name, bytes }. */
  save() {
    const adapter = this.current();
    return { name: `${adapter.name}.safetensors`, bytes: writeAdapter(adapter) };
  }

  /** The state of the selected adapter's training, from which Python goes on too: { name, bytes }. */
  saveState(settings) {
    const adapter = this.ready();
    const run = runOf(settings, this.examples);
    return { name: `${adapter.name}.state.safetensors`, bytes: writeState(adapter, adapter.state ?? initialState(adapter.parameters), run) };
  }

  /** Takes the state in a file { name, bytes } as one more adapter; returns what its run has to have, by the names of settings. */
  openState({ name, bytes }) {
    this.current();
    const { parameters, state, run } = readState(bytes, name, this.start);
    this.add({ ...this.start, parameters }, stem(name).replace(/\.state$/, ''));
    Object.assign(this.selected, { state, begun: run });
    return { steps: run.steps, size: run.batch_size, seed: run.seed };
  }

  rename(name) {
    ensure(name.trim() !== '', 'the adapter has no name; type one');
    this.current().name = name.trim();
    return this.list();
  }

  remove(id) {
    ensure(this.adapters.length > 1, 'the last adapter stays; open or add another one first');
    ensure(!this.training, 'a training goes on; stop it before an adapter is removed');
    this.adapters = this.adapters.filter((adapter) => adapter.id !== id);
    this.selected = this.adapters.includes(this.selected) ? this.selected : this.adapters[0];
    return this.list();
  }

  add(adapter, name) {
    const taken = new Set(this.adapters.map((each) => each.name));
    let own = name;
    for (let n = 2; taken.has(own); n += 1) {
      own = `${name} ${n}`;
    }
    this.number += 1;
    this.selected = { ...copyOf(adapter, own), id: this.number, state: undefined, losses: [], measured: [] };
    this.adapters.push(this.selected);
    return this.list();
  }

  current() {
    ensure(this.graph, 'there is no step graph; open one first');
    return this.selected;
  }

  /** The selected adapter, where there are examples of its classes. */
  ready() {
    const adapter = this.current();
    ensure(this.examples, 'there are no examples; open a .csv file, or type some, and take them');
    const same = !adapter.labels || String(adapter.labels) === String(this.examples.names);
    ensure(same, () => (
      `the classes of ${adapter.name} are ${adapter.labels.join(', ')}, and those of the examples ${this.examples.names.join(', ')}; `
      + 'take the examples again for this adapter'));
    return adapter;
  }
}

const RUN = { batch_size: 'rows a step', rows: 'rows to train on', seed: 'as its seed', steps: 'steps' };

/** What trainings that go on from each other have in common. */
function runOf({ size, seed, steps }, { train }) {
  return { batch_size: size, rows: train.length, seed: String(seed), steps };
}

const stem = (name) => name.replace(/\.safetensors$/, '');

function jsonOf({ name, bytes }) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return ensure(false, `${name} is no JSON; give the file of the base model`);
  }
}
