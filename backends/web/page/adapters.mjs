// Adapters in memory: from a file of the format and back. The format itself is unilora.mjs's.

import { decodeTensor, encodeTensor, parseJson, readDescription, readFile, writeFile } from '../../../conformance_tests/examples/unilora.mjs';
import { ensure, Refused } from './refused.mjs';

const SAVED = 'saved.';
export const parameterOf = (tensor) => (tensor.startsWith(SAVED) ? tensor.slice(SAVED.length) : tensor);

/**
 * An adapter from the bytes of the file `name`: { name, description, labels, base, projection, parameters, tensors }.
 *
 * `parameters` is a Map of Float32Arrays by name, "theta" and what is trained in full beside it; it is what a training changes.
 */
export function readAdapter(bytes, name) {
  let file;
  try {
    file = readFile(bytes);
  } catch (error) {
    throw new Refused(`${name} is no adapter that can be read: ${error.message}${error.rule ? ` (SPEC ${error.rule})` : ''}; give another file`);
  }
  const { description, tensors } = file;
  const { base } = JSON.parse(description.text);
  const trained = [...tensors].filter(([tensor]) => tensor !== description.projection.tensor?.name);
  const parameters = new Map(trained.map(([tensor, value]) => [parameterOf(tensor), decodeTensor(value)]));
  return { name, description, labels: base?.labels, base, projection: description.projection, parameters, tensors };
}

/** The bytes of an adapter's file, its numbers as float32, and with `labels`, the names of its classes, where its record has none. */
export function writeAdapter({ description, labels, base, parameters, tensors }) {
  let completed = description;
  if (labels && base && !base.labels) {
    const fields = JSON.parse(description.text);
    const text = JSON.stringify({ ...fields, base: { ...base, labels, problem_type: 'single_label_classification' } });
    completed = readDescription(parseJson(text));
  }
  const written = new Map([...tensors].map(([name, tensor]) => {
    const values = parameters.get(parameterOf(name));
    return [name, values ? encodeTensor('F32', tensor.shape, values) : tensor];
  }));
  return writeFile({ description: completed, tensors: written });
}

/** An adapter with the same description and numbers of its own. */
export function copyOf(adapter, name) {
  return { ...adapter, name, parameters: copied(adapter.parameters) };
}

/** How many numbers a shape has. */
export const sizeOf = (shape) => shape.reduce((product, axis) => product * axis, 1);

/** A Map of Float32Arrays with numbers of its own. */
export const copied = (parameters) => new Map([...parameters].map(([name, values]) => [name, values.slice()]));

/** Refuses an adapter that is not of the graph's base, projection or head. */
export function checkFits({ name, projection, base, parameters }, graph) {
  const wanted = [
    ['kind', projection.kind, 'unilora.projection'],
    ['seed', projection.seed, 'unilora.seed'],
    ['d', projection.d, 'unilora.d'],
    ['D', projection.D, 'unilora.D'],
  ];
  for (const [what, value, key] of wanted) {
    const own = graph.metadata.get(key);
    ensure(String(value) === own, `${name} has ${what} ${value}, and ${graph.name} is for ${own}; give an adapter of this graph`);
  }
  const contents = graph.metadata.get('unilora.base_contents');
  const same = !contents || !base || base.contents === contents;
  ensure(same, () => `${name} was trained on another base than that of ${graph.name}; give an adapter of this base`);
  for (const parameter of graph.trained) {
    const length = sizeOf(graph.shapeOf(parameter));
    const there = parameters.get(parameter)?.length;
    ensure(there === length, () => (
      `${name} has ${there ?? 'no'} numbers for ${parameter}, and ${graph.name} takes ${length}; give an adapter of this graph`));
  }
  const strange = [...parameters.keys()].find((parameter) => !graph.trained.includes(parameter));
  ensure(strange === undefined, `${name} brings ${strange}, which ${graph.name} does not take; give an adapter of this graph`);
}
