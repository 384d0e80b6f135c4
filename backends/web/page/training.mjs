// The steps of a training, and the measuring of held-out rows.

import { adamw, clip, factorOf } from './adamw.mjs';
import { batchesOf } from './order.mjs';
import { ensure, Refused } from './refused.mjs';

const MEASURED = 32; // rows a run

/**
 * The next step of a training: { loss, rate }, the loss before it and the learning rate of θ. `state` is of adamw.mjs; it and
 * `parameters` change together, or neither where the loss is no number.
 *
 * `settings` has `steps`, `size` (rows a batch), `rate`, `headRate`, `warmup`, `clip`, `decay`, `seed` (a BigInt) and `most` (tokens).
 */
export async function nextStep(graph, tokens, rows, parameters, state, settings) {
  const batch = batchOf(rows, state.step, settings).map((number) => rows[number]);
  const inputs = tokens.batch(batch.map((row) => row.text), graph.inputs, settings.most);
  const { loss, gradients } = await graph.step(inputs, batch.map((row) => row.label), parameters);
  const norm = clip(gradients, settings.clip);
  if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
    throw new Refused(`the loss is ${loss} in step ${state.step + 1}, and the adapter stays as it was before; start over with a lower learning rate`);
  }
  const factor = factorOf(state.step, settings.steps, settings.warmup);
  const each = (value) => new Map([...parameters.keys()].map((name) => [name, value(name)]));
  const rates = each((name) => factor * (name === 'theta' ? settings.rate : settings.headRate));
  adamw(parameters, state, gradients, rates, each(() => settings.decay));
  return { loss, rate: rates.get('theta') };
}

/** The numbers of the rows of step `step`, from 0. */
export function batchOf(rows, step, { size, seed }) {
  const each = Math.ceil(rows.length / size);
  const epoch = Math.floor(step / each);
  return batchesOf(rows.map((row) => row.length), size, seed, epoch)[step % each];
}

/** { accuracy, loss } of adapters on rows with labels; `tell` is called with the rows done and all of them. */
export async function measure(graph, tokens, rows, parameters, most, tell = () => {}) {
  const sorted = [...rows].sort((one, other) => other.length - one.length); // the longest first: batches of like length
  let [right, loss] = [0, 0];
  for (let start = 0; start < sorted.length; start += MEASURED) {
    const batch = sorted.slice(start, start + MEASURED);
    tell(start, sorted.length);
    const scores = await scoresOf(graph, tokens, batch.map((row) => row.text), parameters, most);
    scores.forEach((probabilities, k) => {
      right += likeliest(probabilities) === batch[k].label;
      loss -= Math.log(probabilities[batch[k].label]);
    });
  }
  return { accuracy: right / sorted.length, loss: loss / sorted.length };
}

/** The probability of each class for each text: lists of numbers. */
export async function scoresOf(graph, tokens, texts, parameters, most) {
  const logits = await graph.logits(tokens.batch(texts, graph.inputs, most), parameters);
  return logits.map((row) => {
    ensure(row.every(Number.isFinite), 'the answer of the model is no number; start over, or open another adapter');
    const highest = Math.max(...row);
    const powers = row.map((logit) => Math.exp(logit - highest));
    const sum = powers.reduce((one, other) => one + other, 0);
    return powers.map((power) => power / sum);
  });
}

export const likeliest = (values) => values.indexOf(Math.max(...values));
