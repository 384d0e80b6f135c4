// The page: it turns actions of its user into calls of the worker, and shows the answers.

import { client } from './client.mjs';
import { draw } from './curve.mjs';

const GIVEN = new URL('../../../given.json', import.meta.url); // what the server has for the page, where it has something
const at = (id) => document.getElementById(id);
const value = (id) => at(id).value.trim();
const number = (id) => Number(value(id));
const count = (whole, one, several) => `${whole.toLocaleString('en')} ${whole === 1 ? one : several}`;

const ask = client({ loading, measuring, measured, step: stepped }, problem);

function problem(sentence) {
  at('problem').hidden = !sentence;
  at('problem').textContent = sentence ?? '';
}

/** Runs an action of the user: an error is shown as one sentence, and everything stays as it was. */
function on(id, happening, action) {
  at(id).addEventListener(happening, async (event) => {
    problem();
    try {
      await action(event);
    } catch (error) {
      problem(error.message);
    }
  });
}

// ---- 1. Model -----------------------------------------------------------------------------------------------------------

function loading({ name, done, all }) {
  at('loading').hidden = done === all;
  at('loading-told').textContent = `${name}: ${(done / 1e6).toFixed(1)} of ${(all / 1e6).toFixed(1)} MB`;
  at('loading-bar').value = done / all;
}

async function open(sources) {
  if (unsaved.size && !confirm('Another graph takes the place of all adapters, and some were not saved. Open it?')) {
    return;
  }
  await opening(() => ask('open', sources, value('device')));
  unsaved.clear();
  at('examples-told').textContent = 'No examples yet.';
  listed(await ask('list'));
}

/** Opens a graph by an action, and shows what the action returns about it. */
async function opening(action) {
  const before = at('graph-told').textContent;
  try {
    at('graph-told').textContent = 'Opening …';
    const {
      kind, d, D, beside, base, bytes, device, threads,
    } = await action();
    const where = device === 'WebGPU' ? device : `${device}, ${count(threads, 'thread', 'threads')}`;
    at('graph-told').textContent = `${base || 'A base'}, ${(bytes / 1e6).toFixed(0)} MB, on ${where}: ${d.toLocaleString('en')} numbers (${kind}) `
      + `for ${D.toLocaleString('en')} of all layers, and ${beside.toLocaleString('en')} of the head.`;
  } catch (error) {
    at('graph-told').textContent = before;
    throw error;
  }
}

on('graph-files', 'change', ({ target }) => {
  const files = [...target.files];
  const named = (fits) => files.filter(({ name }) => fits(name)).map((file) => ({ name: file.name, file }))[0];
  return open({
    graph: named((name) => name.endsWith('.onnx')),
    adapter: named((name) => name.endsWith('.safetensors')),
    tokenizer: named((name) => name === 'tokenizer.json') ?? given.tokenizer,
    configuration: named((name) => name === 'tokenizer_config.json') ?? given.configuration,
  });
});

on('device', 'change', () => adapters.length && opening(() => ask('move', value('device'))));

// ---- 2. Examples --------------------------------------------------------------------------------------------------------

async function read(source) {
  const { columns, rows } = await ask('read', source);
  for (const [id, guess] of [['text', 'text'], ['label', 'label']]) {
    const before = value(id) || given.fields?.[id] || guess;
    at(id).replaceChildren(...columns.map((column) => new Option(column, column)));
    at(id).value = columns.includes(before) ? before : columns[id === 'text' ? 0 : columns.length - 1];
  }
  at('examples-told').textContent = `${source.name}: ${count(rows, 'row', 'rows')}, not taken yet.`;
  await choose();
}

async function choose() {
  const choice = {
    text: value('text'),
    label: value('label'),
    where: value('where'),
    holdout: number('holdout'),
    limit: number('limit'),
    measure: number('measure-most'),
  };
  const { train, heldOut, names, dropped } = await ask('choose', choice);
  const left = [['label', dropped.label], ['text', dropped.text]].filter(([, rows]) => rows)
    .map(([what, rows]) => ` ${count(rows, 'row has', 'rows have')} no ${what}.`).join('');
  at('examples-told').textContent = `${train.toLocaleString('en')} to train on and ${heldOut.toLocaleString('en')} held out, `
    + `of the classes ${names.join(', ')}.${left}`;
}

on('table-file', 'change', (event) => read(chosen(event)));
on('take-typed', 'click', () => read({ name: 'what is typed', text: at('typed').value }));
on('choose', 'click', choose);

// ---- 3. Training --------------------------------------------------------------------------------------------------------

let adapters = [];
const unsaved = new Set(); // the ids of adapters with steps that no file has
const selected = () => adapters.find((adapter) => adapter.selected);

function settings() {
  const fields = {
    steps: 'steps', size: 'size', rate: 'rate', headRate: 'head-rate', warmup: 'warmup', clip: 'clip', decay: 'decay', every: 'every', most: 'most',
  };
  for (const id of [...Object.values(fields), 'seed']) {
    if (!at(id).checkValidity() || value(id) === '') {
      at(id).closest('details').open = true;
      throw new Error(`${at(id).closest('label').firstChild.textContent.trim()} is "${value(id)}"; give another number`);
    }
  }
  return {
    ...Object.fromEntries(Object.entries(fields).map(([name, id]) => [name, number(id)])),
    seed: BigInt.asUintN(64, BigInt(value('seed'))),
  };
}

function busy(is) {
  for (const id of ['train', 'measure', 'fresh', 'remove', 'choose']) {
    at(id).disabled = is;
  }
  at('stop').disabled = !is;
}

function stepped({ id, step, loss, seconds }) {
  const adapter = adapters.find((each) => each.id === id);
  adapter.losses.push({ step, loss });
  adapter.steps = step;
  unsaved.add(id);
  at('train-told').textContent = `${adapter.name}: step ${step} of ${value('steps')}, loss ${loss.toFixed(3)}, ${seconds.toFixed(1)} s a step`;
  shown();
}

function measuring({ done, all }) {
  at('train-told').textContent = `Measuring: ${done} of ${all} held-out rows …`;
}

function measured({ id, step, accuracy, loss, rows }) {
  const adapter = adapters.find((each) => each.id === id);
  adapter.measured = [...adapter.measured.filter((each) => each.step !== step), { step, accuracy }];
  at('train-told').textContent = `${adapter.name}: accuracy ${accuracy.toFixed(3)} and loss ${loss.toFixed(3)} on ${rows} held-out rows after ${count(step, 'step', 'steps')}`;
  shown();
}

on('train', 'click', async () => {
  const chosen = settings();
  busy(true);
  try {
    const { step, stopped } = await ask('train', chosen);
    if (stopped) {
      at('train-told').textContent = `Stopped after ${count(step, 'step', 'steps')}; Train goes on.`;
    }
  } finally {
    busy(false);
    listed(await ask('list'));
  }
});
on('stop', 'click', () => ask('stop'));
on('measure', 'click', async () => {
  busy(true);
  try {
    await ask('measure', settings().most);
  } finally {
    busy(false);
  }
});
on('fresh', 'click', async () => listed(await ask('fresh')));

// ---- 4. Adapters --------------------------------------------------------------------------------------------------------

/** Shows the adapters, with the curve of the selected one. */
function listed(found) {
  adapters = found;
  at('name').value = selected().name;
  at('adapters').replaceChildren(...adapters.map(({ id, name, selected: is }) => {
    const radio = Object.assign(document.createElement('input'), { type: 'radio', name: 'adapter', value: id, checked: is });
    radio.addEventListener('change', async () => {
      listed(await ask('select', id));
      at('adapters').querySelector(':checked').focus();
    });
    const label = document.createElement('label');
    label.append(radio, name, document.createElement('small'));
    return label;
  }));
  shown();
}

/** Updates numbers and the curve while a training goes on. The list stays, so that the keyboard's focus in it stays too. */
function shown() {
  const lines = at('adapters').querySelectorAll('small');
  adapters.forEach(({ steps, measured: known }, k) => {
    const accuracy = known.length ? `, accuracy ${known.at(-1).accuracy.toFixed(3)}` : '';
    lines[k].textContent = count(steps, 'step', 'steps') + accuracy;
  });
  draw(at('curve'), { ...selected(), steps: Math.max(number('steps'), selected().steps) });
}

/** The file that was chosen, as a source; the choice is taken back, so that the same file can be opened again. */
function chosen({ target }) {
  const [file] = target.files;
  target.value = '';
  return { name: file.name, file };
}

/** Gives a file to the browser, which keeps it where its user keeps files. */
function download({ name, bytes }) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type: 'application/octet-stream' }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

on('adapter-file', 'change', async (event) => listed(await ask('openAdapter', chosen(event))));
on('save-state', 'click', async () => download(await ask('saveState', settings())));
on('state-file', 'change', async (event) => {
  Object.entries(await ask('openState', chosen(event))).forEach(([id, content]) => { at(id).value = content; });
  listed(await ask('list'));
});
on('name', 'change', async () => listed(await ask('rename', value('name'))));
on('remove', 'click', async () => listed(await ask('remove', selected().id)));
on('save', 'click', async () => {
  const { id } = selected();
  download(await ask('save'));
  unsaved.delete(id);
});

// ---- 5. Try it ----------------------------------------------------------------------------------------------------------

on('predict', 'click', async () => {
  const texts = at('sentences').value.split('\n').filter((text) => text.trim() !== '');
  const found = await ask('predict', texts, settings().most);
  at('answers').tBodies[0].replaceChildren(...found.map(({ text, label, probability }) => {
    const row = document.createElement('tr');
    const meter = Object.assign(document.createElement('meter'), { value: probability, title: probability.toFixed(3) });
    const cells = [label, '', text].map((words) => Object.assign(row.insertCell(), { textContent: words }));
    cells[1].append(meter, ` ${probability.toFixed(2)}`);
    return row;
  }));
});

// ---- At the beginning ---------------------------------------------------------------------------------------------------

let given = {};

/** The server's files and fields: sources by their roles, and the values of fields by their ids. */
async function begin() {
  if (!globalThis.crossOriginIsolated) {
    at('notice').hidden = false;
    at('notice').textContent = 'This page trains with one thread, as its memory cannot be shared: for more, serve it with the headers '
      + 'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp, as make web does.';
  }
  draw(at('curve'), { losses: [], measured: [], steps: number('steps') });
  const response = await fetch(GIVEN).catch(() => undefined);
  if (!response?.ok) {
    return; // a server of files alone: its user opens what is on the disk
  }
  given = await response.json();
  for (const [id, content] of Object.entries(given.fields ?? {})) {
    at(id).value = content; // the columns, when the table is read
  }
  const { graph, adapter, tokenizer, configuration } = given;
  if (graph) {
    await open({ graph, adapter, tokenizer, configuration });
  }
  if (given.table) {
    await read(given.table);
  }
}

addEventListener('beforeunload', (event) => {
  if (unsaved.size) {
    event.preventDefault(); // the browser asks whether to leave
  }
});
begin().catch((error) => problem(error.message));
