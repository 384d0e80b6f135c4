// A training's state as a file: the trained values, AdamW's moments and the step, from which another backend goes on (docs/web.md).

import {
  canonicalJson, decodeTensor, encodeTensor, pack, readTensors, splitFile,
} from '../../../conformance_tests/examples/unilora.mjs';
import { parameterOf } from './adapters.mjs';
import { ensure, Refused } from './refused.mjs';

const FIELD = 'unilora.state';
const VERSION = '1';
const MOMENTS = { exp_avg: 'first', exp_avg_sq: 'second' }; // by their names in adamw.mjs

/** The bytes of the state of a training of `adapter`; `run` has what a call must share with the one that goes on from it. */
export function writeState(adapter, state, run) {
  const tensors = new Map();
  for (const [name, { shape }] of trainedOf(adapter)) {
    tensors.set(name, encodeTensor('F32', shape, adapter.parameters.get(parameterOf(name))));
    for (const [moment, own] of Object.entries(MOMENTS)) {
      tensors.set(`${moment}.${name}`, encodeTensor('F32', shape, state[own].get(parameterOf(name))));
    }
  }
  const fields = new Map(Object.entries({
    adapter: describedOf(adapter), run: new Map(Object.entries(run)), step: state.step, version: VERSION,
  }));
  return pack(new Map([[FIELD, canonicalJson(fields)]]), tensors);
}

/** { parameters, state, run } of a file's bytes, which has to be of a training of `adapter`. */
export function readState(bytes, name, adapter) {
  const { fields, tensors } = partsOf(bytes, name);
  const [there, own] = [fields.get('adapter'), describedOf(adapter)].map((each) => each instanceof Map && canonicalJson(each));
  ensure(there === own, `${name} is of a training of another adapter than ${adapter.name}; give a state of this graph's`);
  const step = fields.get('step');
  ensure(Number.isInteger(step) && step >= 0, `${name} has no whole number of steps; give a file that was saved as a state`);
  const [parameters, state] = [new Map(), { step, first: new Map(), second: new Map() }];
  for (const [tensor, { shape }] of trainedOf(adapter)) {
    const values = (key) => {
      const found = tensors.get(key);
      const sound = found?.dtype === 'F32' && String(found.shape) === String(shape);
      ensure(sound, `${name} has no ${key} of float32 [${shape.join(', ')}]; give a whole file`);
      return decodeTensor(found);
    };
    parameters.set(parameterOf(tensor), values(tensor));
    Object.entries(MOMENTS).forEach(([moment, place]) => state[place].set(parameterOf(tensor), values(`${moment}.${tensor}`)));
  }
  return { parameters, state, run: Object.fromEntries(fields.get('run')) };
}

function partsOf(bytes, name) {
  try {
    const { header, data } = splitFile(bytes);
    const fields = mapsOf(header.get('__metadata__').get(FIELD));
    header.delete('__metadata__');
    ensure(fields.get('version') === VERSION && fields.get('run') instanceof Map, 'another version');
    return { fields, tensors: readTensors(header, data) };
  } catch {
    throw new Refused(`${name} holds no state of a training that can be read; give a file that was saved as a state`);
  }
}

/** The tensors of an adapter's file that are trained. */
const trainedOf = ({ tensors, projection }) => [...tensors].filter(([name]) => name !== projection.tensor?.name);

/** The description of an adapter, of its base the contents alone: its name and its labels may be others elsewhere. */
function describedOf({ description }) {
  const fields = mapsOf(description.text);
  if (fields.has('base')) {
    fields.set('base', new Map([['contents', fields.get('base').get('contents')]]));
  }
  return fields;
}

/** JSON with its objects as Maps, as canonicalJson takes them. */
function mapsOf(text) {
  const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
  return JSON.parse(text, (key, value) => (isObject(value) ? new Map(Object.entries(value)) : value));
}
