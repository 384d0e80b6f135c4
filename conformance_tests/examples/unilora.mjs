// Uni-LoRA, version 1, in JavaScript: an example of an implementation by a third party, without packages.
//
//     import { readFile, writeFile, Permutation } from './unilora.mjs';
//
// gives its functions to a page or to another program: the last lines list them.
//
//     node unilora.mjs
//
// reads requests on its standard input and answers them on its standard output, as PROTOCOL.md says, for the levels
// "projection" and "file", with all kinds of projection. What is of PROTOCOL.md alone needs node, for base64.
//
// It was written from SPEC.md and PROTOCOL.md alone; "SPEC 4.3"
// is a rule of the former. Who wants no kinds but those that SPEC 9.1 asks of everyone leaves out chapter 11.
//
// Numbers are JavaScript's own, float64, wherever SPEC 1.4 says that they are exact. That leaves BigInt for keys (SPEC
// 2.1) and the quotients of 11.13 and 11.14; rows, columns and offsets stay below 2^53. What a file says is multiplied
// and added up before it is checked as well: products and sums beyond 2^53 round, but those of numbers that are not
// negative never round to below a limit that float64 holds exactly, so that comparing them is right. Bit operations
// give signed 32-bit numbers, so whatever leaves one as a number passes through >>> 0.

/** What SPEC.md refuses. `rule` is the rule that refuses, or null where it is the protocol. */
class Refusal extends Error {
  constructor(rule, message) {
    super(message);
    this.rule = rule;
  }
}

function ensure(condition, rule, message) {
  if (!condition) {
    // A message may be a function: one that is costly to write, in a check that is made often.
    throw new Refusal(rule, typeof message === 'function' ? message() : message);
  }
}

const isWhole = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;

// ---- 1 Limits -------------------------------------------------------------------------------------------------------

const TWO_32 = 2 ** 32;
const MAX_ROWS = 2 ** 40;
const MAX_COLUMNS = 2 ** 31 - 1;

/** SPEC 1.1: D alone, as the permutation has no d. */
function checkRows(D) {
  ensure(isWhole(D, 1, MAX_ROWS), '1.1', 'D is not a whole number of 1 to 2^40');
}

/** SPEC 1.1, where d is free or follows from the layer map. */
function checkDimensions(d, D, isFree) {
  checkRows(D);
  ensure(isWhole(d, 1, MAX_COLUMNS), '1.1', 'd is not a whole number of 1 to 2^31 - 1');
  ensure(d <= D || !isFree, '1.1', `d = ${d} is more than D = ${D}`);
}

/** SPEC 1.2, and 8.6 for the spelling. Twenty digits hold 2^64; BigInt never sees more of them. */
function parseSeed(text) {
  const sound = typeof text === 'string' && /^(0|[1-9][0-9]*)$/.test(text);
  ensure(sound, '8.6', 'the seed is not a text, a decimal number without leading zeros');
  ensure(text.length <= 20 && BigInt(text) < 2n ** 64n, '1.2', 'the seed is not below 2^64');
  return BigInt(text);
}

/** SPEC 1.3 */
function checkRange(start, stop, length) {
  const sound = isWhole(start, 0, length) && isWhole(stop, start, length);
  ensure(sound, '1.3', () => `[${show(start)}, ${show(stop)}) is not a range of [0, ${length})`);
}

// ---- 2 Keys ---------------------------------------------------------------------------------------------------------

/** SPEC 2.1, 2.2: K_t, the high half of SplitMix64's output t, whose state grows by the same number for each output. */
function keyOf(seed, t) {
  const wrap = (value) => BigInt.asUintN(64, value);
  let z = wrap(seed + BigInt(t + 1) * 0x9E3779B97F4A7C15n);
  z = wrap((z ^ (z >> 30n)) * 0xBF58476D1CE4E5B9n);
  z = wrap((z ^ (z >> 27n)) * 0x94D049BB133111EBn);
  z ^= z >> 31n;
  return Number(z >> 32n);
}

/** K_0 ... K_9, and on request those after them. */
function keysOf(seed, count = 10) {
  return Uint32Array.from({ length: count }, (_, t) => keyOf(seed, t));
}

// ---- 3 Mixing function ----------------------------------------------------------------------------------------------

/** SPEC 3.1 */
function mix(x, key) {
  x ^= key;
  x ^= x >>> 16;
  x = Math.imul(x, 0x7FEB352D);
  x ^= x >>> 15;
  x = Math.imul(x, 0x297A2D39);
  x ^= x >>> 16;
  return x >>> 0;
}

// ---- 4 Projection "balanced" ----------------------------------------------------------------------------------------

/** SPEC 4.1: the smallest a with a^2 >= D. */
function sideOf(D) {
  let a = Math.ceil(Math.sqrt(D));
  while ((a - 1) * (a - 1) >= D) {
    a -= 1;
  }
  while (a * a < D) {
    a += 1;
  }
  return a;
}

/** pi of SPEC 4.3 and its inverse, SPEC 4.4, on [0, D). */
class Permutation {
  constructor(D, keys) {
    this.D = D;
    this.keys = keys;
    this.a = sideOf(D);
  }

  /** f of SPEC 4.2. The product is below 2^52, and the division by a power of two exact. */
  step(half, t) {
    return Math.floor(mix(half, this.keys[t]) * this.a / TWO_32);
  }

  /** SPEC 4.3 */
  forward(x) {
    let y = x;
    do {
      y = this.pass(y);
    } while (y >= this.D);
    return y;
  }

  /** SPEC 4.4 */
  backward(y) {
    let x = y;
    do {
      x = this.passBack(x);
    } while (x >= this.D);
    return x;
  }

  /** SPEC 4.2 */
  pass(x) {
    const { a } = this;
    let right = x % a;
    let left = (x - right) / a;
    for (let t = 0; t < 6; t += 1) {
      const sum = left + this.step(right, t);
      left = right;
      right = sum >= a ? sum - a : sum;
    }
    return left * a + right;
  }

  passBack(y) {
    const { a } = this;
    let right = y % a;
    let left = (y - right) / a;
    for (let t = 5; t >= 0; t -= 1) {
      const difference = right - this.step(left, t);
      right = left;
      left = difference < 0 ? difference + a : difference;
    }
    return left * a + right;
  }
}

class Balanced {
  constructor({ d, D, keys }) {
    this.d = d;
    this.D = D;
    this.keys = keys;
    this.permutation = new Permutation(D, keys);
  }

  /** SPEC 4.5 */
  index(row) {
    return this.permutation.forward(row) % this.d;
  }

  /** n_j of SPEC 4.6, for the columns of a range. */
  counts(start, stop) {
    const rest = this.D % this.d;
    const least = (this.D - rest) / this.d;
    return new Float64Array(stop - start).map((_, k) => (start + k < rest ? least + 1 : least));
  }

  /** SPEC 4.6: the rows of the columns of a range, column after column. */
  members(start, stop, counts) {
    const rows = new Float64Array(total(counts));
    let from = 0;
    for (let j = start; j < stop; j += 1) {
      const column = rows.subarray(from, from + counts[j - start]);
      for (let k = 0; k < column.length; k += 1) {
        column[k] = this.permutation.backward(j + k * this.d);
      }
      column.sort();
      from += column.length;
    }
    return rows;
  }
}

function total(counts) {
  return counts.reduce((sum, count) => sum + count, 0);
}

// ---- 5 Projection "uniform" -----------------------------------------------------------------------------------------

class Uniform {
  constructor({ d, D, keys }) {
    this.d = d;
    this.D = D;
    this.keys = keys;
  }

  /** SPEC 5.1, with the product h * d taken apart as in SPEC 5.3. */
  index(row) {
    const h = mix(mix(row >>> 0, this.keys[6]) ^ Math.floor(row / TWO_32), this.keys[7]);
    const u = h >>> 16;
    const v = h & 0xFFFF;
    return Math.floor((u * this.d + Math.floor(v * this.d / 65536)) / 65536);
  }

  /** SPEC 5.2: counted over all rows, in memory for the columns of the range alone. */
  counts(start, stop) {
    const counts = new Float64Array(stop - start);
    this.visit(start, stop, (column) => {
      counts[column] += 1;
    });
    return counts;
  }

  members(start, stop, counts) {
    const rows = new Float64Array(total(counts));
    const next = new Float64Array(counts.length);
    for (let k = 1; k < next.length; k += 1) {
      next[k] = next[k - 1] + counts[k - 1];
    }
    this.visit(start, stop, (column, row) => {
      rows[next[column]] = row;
      next[column] += 1;
    });
    return rows;
  }

  /** Calls `action` with column - start and row, for each row, ascending, whose column lies in the range. */
  visit(start, stop, action) {
    if (start === stop) {
      return;
    }
    for (let row = 0; row < this.D; row += 1) {
      const column = this.index(row);
      if (column >= start && column < stop) {
        action(column - start, row);
      }
    }
  }
}

// ---- 6 Values -------------------------------------------------------------------------------------------------------

/** SPEC 6.1 */
function scaleOf(count) {
  return count === 0 ? 0 : Math.fround(1 / Math.sqrt(count));
}

/** SPEC 6.2: theta_D from row `start` to row `stop`. The product of two float32 is exact in float64, so it is rounded
 * once. */
function expand(projection, theta, start, stop) {
  const scale = projection.counts(0, projection.d).map(scaleOf);
  const values = new Float32Array(stop - start);
  for (let row = start; row < stop; row += 1) {
    const column = projection.index(row);
    values[row - start] = theta[column] * scale[column];
  }
  return values;
}

/** SPEC 6.3, as the reference sums, of a gradient that is 0 outside of the rows from `start` on. */
function adjoint(projection, gradient, start) {
  const sums = new Float64Array(projection.d);
  for (let k = 0; k < gradient.length; k += 1) {
    sums[projection.index(start + k)] += gradient[k];
  }
  const counts = projection.counts(0, projection.d);
  return Float32Array.from(sums, (sum, column) => scaleOf(counts[column]) * sum);
}

/** 2u - 1 of SPEC 6.4, in [-1, 1). */
function startOf(keys, j) {
  return 2 * (mix(mix(j, keys[8]), keys[9]) / TWO_32) - 1;
}

/** SPEC 6.4 */
function initial(projection, bound) {
  return new Float32Array(projection.d).map((_, j) => startOf(projection.keys, j) * bound);
}

// ---- 7 Layer map ----------------------------------------------------------------------------------------------------
//
// An unfolded segment is an object with the fields of SPEC 7.2, where `row` and `index` are undefined if absent.

const MAX_SEGMENTS = 65536;
const MAX_NAME_BYTES = 512;
const MAX_ALL_NAMES_BYTES = 2 ** 22;
const MAX_FIELD = 2 ** 40 - 1;

/** The segments that a compact form (SPEC 7.8) stands for, checked by all of SPEC 7. */
function unfold(entries) {
  ensure(Array.isArray(entries), '7.8', 'the layer map is not a list');
  const runs = entries.map(readEntry);
  checkSegmentCount(runs);
  const segments = build(runs);
  checkWeights(segments);
  return segments;
}

/** SPEC 7.2: the entries of A and B, or of rank 0 those of the delta weight. */
function sizeOfSegment({ out, in: columns, rank }) {
  return rank === 0 ? out * columns : rank * (columns + out);
}

/** D (SPEC 7.1) */
function sizeOf(segments) {
  let size = 0;
  for (const segment of segments) {
    size += sizeOfSegment(segment);
  }
  ensure(size <= MAX_ROWS, '1.1', 'the segments have more than 2^40 entries');
  return size;
}

/** An entry of SPEC 7.8 as a run. A segment outside of runs is one without `layers`. */
function readEntry(entry) {
  ensure(entry instanceof Map, '7.8', 'an entry of the layer map is not an object');
  if (!entry.has('layers')) {
    const segment = readSegment(entry);
    ensure(segment.name !== '', '7.8', 'a name is empty outside of a run');
    return { layers: undefined, prefix: '', segments: [segment] };
  }
  checkFields(entry, 'a run', ['layers', 'prefix', 'segments'], [], '7.8');
  const prefix = entry.get('prefix');
  ensure(typeof prefix === 'string', '7.8', 'a prefix is not a text');
  const segments = entry.get('segments');
  ensure(Array.isArray(segments) && segments.length > 0, '7.8', 'the segments of a run are not a list, or empty');
  return { layers: readRange(entry.get('layers')), prefix, segments: segments.map(readSegment) };
}

/** A segment of SPEC 7.8. Its `index` stays undefined, a number or a range: a stack is not unfolded yet. */
function readSegment(entry) {
  ensure(entry instanceof Map, '7.8', 'a segment is not an object');
  checkFields(entry, 'a segment', ['name', 'out', 'in', 'rank'], ['transposed', 'row', 'index'], '7.8');
  const name = entry.get('name');
  ensure(typeof name === 'string', '7.2', 'a name is not a text');
  const transposed = entry.get('transposed') ?? false;
  ensure(typeof transposed === 'boolean', '7.2', '"transposed" is neither true nor false');
  const [out, columns, rank] = [readField(entry, 'out', 1), readField(entry, 'in', 1), readField(entry, 'rank', 0)];
  ensure(rank <= Math.min(out, columns), '7.11', () => `the rank ${rank} is above min(${out}, ${columns})`);
  return {
    name,
    out,
    in: columns,
    rank,
    transposed,
    row: entry.has('row') ? readField(entry, 'row', 0) : undefined,
    index: readIndex(entry),
  };
}

function readField(entry, field, low) {
  const value = entry.get(field);
  ensure(isWhole(value, low, MAX_FIELD), '7.2', `"${field}" is not a whole number of ${low} to 2^40 - 1`);
  return value;
}

function readIndex(entry) {
  const index = entry.get('index');
  if (index === undefined) {
    return undefined;
  }
  return Array.isArray(index) ? readRange(index) : readField(entry, 'index', 0);
}

/** [first, end) of SPEC 7.8, of at least two numbers. */
function readRange(range) {
  const sound = Array.isArray(range) && range.length === 2 && isWhole(range[0], 0, 2 ** 40)
    && isWhole(range[1], range[0] + 2, 2 ** 40);
  ensure(sound, '7.8', 'a range is not [first, end) of at least two whole numbers up to 2^40');
  return { first: range[0], end: range[1] };
}

const lengthOf = (range) => range.end - range.first;
const isStack = (index) => typeof index === 'object';

/** SPEC 7.1 by the lengths of the ranges alone, before anything of that number is built (SPEC 7.8). */
function checkSegmentCount(runs) {
  let count = 0;
  for (const run of runs) {
    let block = 0;
    for (const { index } of run.segments) {
      block += isStack(index) ? lengthOf(index) : 1;
    }
    count += block * (run.layers ? lengthOf(run.layers) : 1);
  }
  ensure(isWhole(count, 1, MAX_SEGMENTS), '7.1', 'the layer map does not have 1 to 65,536 segments');
}

/** All segments, in order. A name is put together once its length is known, and that of all names (SPEC 7.8). */
function build(runs) {
  const segments = [];
  let bytes = 0;
  for (const { layers, prefix, segments: block } of runs) {
    const prefixBytes = encodeUtf8(prefix).length;
    const prefixCharacters = charactersOf(prefix);
    const blockBytes = block.map((segment) => encodeUtf8(segment.name).length);
    const blockCharacters = block.map((segment) => charactersOf(segment.name));
    const { first, end } = layers ?? { first: 0, end: 1 };
    for (let n = first; n < end; n += 1) {
      const number = layers ? String(n) : '';
      for (const [k, segment] of block.entries()) {
        const nameBytes = prefixBytes + number.length + blockBytes[k];
        ensure(nameBytes <= MAX_NAME_BYTES, '7.2', 'a name has more than 512 bytes');
        const indices = indicesOf(segment.index);
        const characters = prefixCharacters + number.length + blockCharacters[k];
        bytes += (characters === nameBytes ? nameBytes : 4 * characters) * indices.length; // ASCII alone, or not
        ensure(bytes <= MAX_ALL_NAMES_BYTES, '7.1', 'the names have more than 2^22 bytes together');
        const name = prefix + number + segment.name;
        for (const index of indices) {
          segments.push({ ...segment, name, index });
        }
      }
    }
  }
  return segments;
}

/** All but the second halves of surrogate pairs, counted in place: a prefix may be as long as a header. */
function charactersOf(text) {
  let count = 0;
  for (let at = 0; at < text.length; at += 1) {
    count += (text.charCodeAt(at) & 0xFC00) !== 0xDC00;
  }
  return count;
}

/** The indices of a segment, or [undefined] where it has none. The length was checked by checkSegmentCount. */
function indicesOf(index) {
  return isStack(index) ? Array.from({ length: lengthOf(index) }, (_, k) => index.first + k) : [index];
}

/** SPEC 7.6 */
function checkWeights(segments) {
  const weights = new Map();
  for (const segment of segments) {
    const parts = weights.get(segment.name);
    if (parts) {
      parts.push(segment);
    } else {
      weights.set(segment.name, [segment]);
    }
  }
  for (const parts of weights.values()) {
    for (const part of parts) {
      ensure(isPartOfSame(part, parts[0]), '7.6', () => `two segments disagree on the weight ${show(part.name)}`);
    }
    checkOverlap(parts);
  }
}

function isPartOfSame(part, other) {
  return part.in === other.in && part.transposed === other.transposed
    && (part.row === undefined) === (other.row === undefined)
    && (part.index === undefined) === (other.index === undefined)
    && (part.row !== undefined || part.out === other.out);
}

/** Sorted, so that each part has only its neighbour to run into. */
function checkOverlap(parts) {
  const matrixOf = (part) => part.index ?? 0;
  const rowOf = (part) => part.row ?? 0;
  parts.sort((one, other) => matrixOf(one) - matrixOf(other) || rowOf(one) - rowOf(other));
  for (let k = 1; k < parts.length; k += 1) {
    const [last, part] = [parts[k - 1], parts[k]];
    const apart = matrixOf(last) < matrixOf(part) || rowOf(last) + last.out <= rowOf(part);
    ensure(apart, '7.6', () => `two segments cover the same entries of the weight ${show(part.name)}`);
  }
}

/** The one compact form of SPEC 7.9, ready for canonicalJson. */
function fold(segments) {
  return foldRuns(foldStacks(segments));
}

/**
 * Steps 1 and 2 of SPEC 7.9: a list of { segment, others, end }, where `others` says all but the name and the index,
 * and the indices are those from segment.index up to `end`.
 */
function foldStacks(segments) {
  const kept = [];
  for (const segment of segments) {
    const { name, index, out, in: columns, rank, transposed, row } = segment;
    const others = `${out} ${columns} ${rank} ${transposed} ${row}`;
    const last = kept.at(-1);
    if (last && index !== undefined && index === last.end && name === last.segment.name && others === last.others) {
      last.end += 1;
    } else {
      kept.push({ segment, others, end: index === undefined ? undefined : index + 1 });
    }
  }
  return kept;
}

/** Step 3 of SPEC 7.9. */
function foldRuns(objects) {
  const entries = [];
  const blocks = [];
  let p = 0;
  while (p < objects.length) {
    const run = findRun(objects, p, blocks);
    if (run) {
      const block = objects.slice(p, p + run.length);
      const segments = block.map((object) => toEntry(object, object.segment.name.slice(run.head.length)));
      entries.push(fieldsOf({ layers: [run.number, run.number + run.count], prefix: run.prefix, segments }));
      p += run.count * run.length;
    } else {
      entries.push(toEntry(objects[p], objects[p].segment.name));
      p += 1;
    }
  }
  return entries;
}

/** A segment of the compact form, of an object of foldStacks. */
function toEntry({ segment, end }, name) {
  const { index, transposed } = segment;
  return fieldsOf({
    ...segment,
    name,
    transposed: transposed || undefined,
    index: end > index + 1 ? [index, end] : index,
  });
}

/**
 * The run that begins at p, or undefined.
 *
 * `blocks` remembers the last block of the first number of names, of the second, and so on. All names of a block share
 * its head and so the place of its number, which is why the last one is enough; and without it, names that all have
 * one head would each be compared with all of the rest. Counting needs no such care: objects differ from each other
 * (SPEC 7.6), so that the one after a block equals at most one of the block's.
 */
function findRun(objects, p, blocks) {
  for (const [place, { prefix, head, number }] of headsOf(objects[p].segment.name).entries()) {
    const block = blocks[place];
    if (!block || block.head !== head || block.end <= p) {
      blocks[place] = { head, end: blockEnd(objects, p, head) };
    }
    const length = blocks[place].end - p;
    const count = countBlocks(objects, p, length, prefix, number);
    if (count >= 2) {
      return { prefix, head, number, length, count };
    }
  }
  return undefined;
}

/** The heads of a name: of its first eight numbers. */
function headsOf(name) {
  const heads = [];
  let start = 0;
  for (const part of name.split('.')) {
    if (/^(0|[1-9][0-9]{0,8})$/.test(part)) {
      heads.push({ prefix: name.slice(0, start), head: name.slice(0, start + part.length), number: Number(part) });
      if (heads.length === 8) {
        break;
      }
    }
    start += part.length + 1;
  }
  return heads;
}

function hasHead(name, head) {
  return name.startsWith(head) && (name.length === head.length || name[head.length] === '.');
}

function blockEnd(objects, p, head) {
  let end = p + 1;
  while (end < objects.length && hasHead(objects[end].segment.name, head)) {
    end += 1;
  }
  return end;
}

/** c of SPEC 7.9: how often the block of `length` objects from p on comes. */
function countBlocks(objects, p, length, prefix, number) {
  const head = prefix + number;
  let count = 1;
  while (isRepeated(objects, p, p + count * length, length, head, prefix + (number + count))) {
    count += 1;
  }
  return count;
}

function equalBesidesName(object, other) {
  return object.others === other.others && object.segment.index === other.segment.index && object.end === other.end;
}

function isRepeated(objects, from, to, length, head, otherHead) {
  if (to + length > objects.length) {
    return false;
  }
  for (let k = 0; k < length; k += 1) {
    const [object, other] = [objects[from + k], objects[to + k]];
    const name = otherHead + object.segment.name.slice(head.length);
    if (other.segment.name !== name || !equalBesidesName(object, other)) {
      return false;
    }
  }
  return true;
}

// ---- 8 File: JSON (SPEC 8.5) ----------------------------------------------------------------------------------------
//
// An object is read as a Map, which takes any key and keeps "__proto__" an ordinary one; a number without point and
// exponent as a number, another as a Decimal. So 2 and 2.0 stay apart, and Number.isInteger tells them.

const MAX_DEPTH = 16;
const MAX_WHOLE_CHARACTERS = 17;
const MAX_NUMBER_CHARACTERS = 32;
const TWO_53 = 2 ** 53;

class Decimal {
  constructor(value) {
    this.value = value;
  }
}

class JsonParser {
  constructor(text, maxDepth) {
    this.text = text;
    this.maxDepth = maxDepth;
    this.at = 0;
  }

  document() {
    const value = this.value(1);
    this.skipSpace();
    this.ensure(this.at === this.text.length, 'something follows it');
    return value;
  }

  value(depth) {
    this.skipSpace();
    const character = this.text[this.at];
    if (character === '{' || character === '[') {
      this.ensure(depth <= this.maxDepth, `nested deeper than ${this.maxDepth}`);
      return character === '{' ? this.object(depth) : this.list(depth);
    }
    if (character === '"') {
      return this.string();
    }
    return character === 't' || character === 'f' ? this.boolean() : this.number();
  }

  object(depth) {
    const fields = new Map();
    this.at += 1;
    if (this.take('}')) {
      return fields;
    }
    do {
      this.skipSpace();
      this.ensure(this.text[this.at] === '"', 'a key is expected');
      const key = this.string();
      this.ensure(!fields.has(key), 'a key is there twice');
      this.ensure(this.take(':'), '":" is expected');
      fields.set(key, this.value(depth + 1));
    } while (this.take(','));
    this.ensure(this.take('}'), '"," or "}" is expected');
    return fields;
  }

  list(depth) {
    const items = [];
    this.at += 1;
    if (this.take(']')) {
      return items;
    }
    do {
      items.push(this.value(depth + 1));
    } while (this.take(','));
    this.ensure(this.take(']'), '"," or "]" is expected');
    return items;
  }

  /** JSON.parse knows the escapes and refuses control characters; half a pair can only come from an escape. */
  string() {
    const start = this.at;
    this.at = this.stringEnd();
    const text = readQuoted(this.text.slice(start, this.at));
    this.ensure(text !== undefined, 'a text is not sound');
    this.ensure(text.isWellFormed(), 'a text has half a surrogate pair');
    return text;
  }

  stringEnd() {
    let at = this.at + 1;
    while (at < this.text.length) {
      const unit = this.text.charCodeAt(at);
      at += 1;
      if (unit === 0x22) {
        return at;
      }
      if (unit === 0x5C) {
        at += 1;
      }
    }
    throw new Refusal('8.5', 'not JSON: a text does not end');
  }

  boolean() {
    const value = this.text.startsWith('true', this.at);
    this.ensure(value || this.text.startsWith('false', this.at), 'a value is expected');
    this.at += String(value).length;
    return value;
  }

  /** The characters are counted before they are looked at, so that a long number costs nothing. */
  number() {
    const start = this.at;
    while ('+-.0123456789Ee'.includes(this.text[this.at]) && this.at - start <= MAX_NUMBER_CHARACTERS) {
      this.at += 1;
    }
    const token = this.text.slice(start, this.at);
    this.ensure(token !== '', 'a value is expected');
    this.ensure(token.length <= MAX_NUMBER_CHARACTERS, 'a number is too long');
    this.ensure(/^-?(0|[1-9][0-9]*)(\.[0-9]+)?([Ee][+-]?[0-9]+)?$/.test(token), 'a number is not sound');
    const value = Number(token);
    this.ensure(Math.abs(value) < TWO_53, 'a number is not below 2^53');
    if (/[.Ee]/.test(token)) {
      return new Decimal(value);
    }
    this.ensure(token.length <= MAX_WHOLE_CHARACTERS, 'a number is too long');
    return value + 0; // -0 is 0
  }

  take(character) {
    this.skipSpace();
    if (this.text[this.at] !== character) {
      return false;
    }
    this.at += 1;
    return true;
  }

  skipSpace() {
    while (this.at < this.text.length && ' \t\n\r'.includes(this.text[this.at])) {
      this.at += 1;
    }
  }

  ensure(condition, problem) {
    ensure(condition, '8.5', () => `not JSON as in SPEC 8.5, at ${this.at}: ${problem}`);
  }
}

function readQuoted(token) {
  try {
    return JSON.parse(token);
  } catch {
    return undefined;
  }
}

function parseJson(text, maxDepth = MAX_DEPTH) {
  return new JsonParser(text, maxDepth).document();
}

/** A byte order mark is kept (that is what `ignoreBOM` says), so that the parser stumbles over it. */
function decodeUtf8(bytes) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Refusal('8.5', 'not UTF-8');
  }
}

const encodeUtf8 = (text) => new TextEncoder().encode(text);

/**
 * SPEC 8.5: of Maps, lists, texts, numbers and booleans. JavaScript's own order of texts is that of UTF-16 code units,
 * its texts are escaped and its numbers written as RFC 8785 wants, which took both from it.
 */
function canonicalJson(value) {
  if (value instanceof Map) {
    const keys = [...value.keys()].sort();
    return `{${keys.map((key) => `${JSON.stringify(key)}:${canonicalJson(value.get(key))}`).join(',')}}`;
  }
  if (Array.isArray(value)) {
    return `[${value.map(canonicalJson).join(',')}]`;
  }
  return JSON.stringify(value);
}

/** An object literal as a Map, without what is undefined. */
function fieldsOf(object) {
  return new Map(Object.entries(object).filter(([, value]) => value !== undefined));
}

function checkFields(object, what, needed, optional, rule) {
  for (const field of needed) {
    ensure(object.has(field), rule, `${what} has no field "${field}"`);
  }
  for (const field of object.keys()) {
    ensure(needed.includes(field) || optional.includes(field), rule, () => `${what} has a field ${show(field)}`);
  }
}

/** A value as a message shows it: in one short line of ASCII, whatever a stranger wrote. */
function show(value) {
  if (typeof value !== 'number' && typeof value !== 'string') {
    return 'something else';
  }
  const text = JSON.stringify(typeof value === 'string' ? value.slice(0, 100) : value);
  return text.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

// ---- 8 File: tensors (SPEC 8.3) -------------------------------------------------------------------------------------
//
// A tensor is { dtype, shape, data }, where `data` are its bytes in the file.

const bitsView = new DataView(new ArrayBuffer(4));

function bitsOf(value) {
  bitsView.setFloat32(0, value);
  return bitsView.getUint32(0);
}

function valueOf(bits) {
  bitsView.setUint32(0, bits);
  return bitsView.getFloat32(0);
}

/** SPEC 8.3. No NaN comes here, and the sum stays below 2^32. */
function toBfloat16(value) {
  const bits = bitsOf(value);
  return (bits + 0x7FFF + ((bits >>> 16) & 1)) >>> 16;
}

/**
 * The nearest float16, ties to even, of a float32 that is not NaN. From 2^e to 2^(e + 1) float16 goes in steps of
 * 2^(e - 10); below 2^-14, in those of e = -14. A count of steps that is rounded up to 2048 carries into the exponent.
 */
function toHalf(value) {
  const bits = bitsOf(value);
  const sign = (bits >>> 16) & 0x8000;
  const exponent = Math.max(((bits >>> 23) & 0xFF) - 127, -14);
  if (exponent > 15) {
    return sign | 0x7C00;
  }
  const steps = roundToEven(Math.abs(value) / 2 ** (exponent - 10));
  return sign | ((exponent + 14) * 1024 + steps);
}

/** From 2^52 on float64 holds whole numbers alone, so the addition rounds. */
function roundToEven(value) {
  return value + 2 ** 52 - 2 ** 52;
}

function fromHalf(bits) {
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 0x3FF;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) {
    return fraction === 0 ? sign * Infinity : NaN;
  }
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

const DTYPES = new Map([
  ['F32', {
    size: 4,
    get: (view, at) => view.getFloat32(at, true),
    set: (view, at, value) => view.setFloat32(at, value, true),
  }],
  ['F16', {
    size: 2,
    get: (view, at) => fromHalf(view.getUint16(at, true)),
    set: (view, at, value) => view.setUint16(at, toHalf(value), true),
  }],
  ['BF16', {
    size: 2,
    get: (view, at) => valueOf(view.getUint16(at, true) << 16),
    set: (view, at, value) => view.setUint16(at, toBfloat16(value), true),
  }],
  ['I32', {
    size: 4,
    get: (view, at) => view.getInt32(at, true),
    set: (view, at, value) => view.setInt32(at, value, true),
  }],
]);

function checkDtype(dtype) {
  ensure(DTYPES.has(dtype), '8.3', () => `the dtype ${show(dtype)} is not F32, F16, BF16 or I32`);
}

const MAX_SHAPE = 64;

/** The bytes of a tensor (SPEC 8.2), of numbers that come from a file: the product is checked before it can round. */
function byteSize(shape, dtype) {
  ensure(Array.isArray(shape) && shape.length <= MAX_SHAPE, '8.2', 'a shape is not a list of at most 64 numbers');
  let size = DTYPES.get(dtype).size;
  for (const length of shape) {
    ensure(isWhole(length, 0, TWO_53), '8.2', 'a shape has something else than whole numbers, or a negative one');
    size *= length === 0 ? 1 : length;
    ensure(size < TWO_53, '8.2', 'a tensor has 2^53 bytes or more');
  }
  return shape.includes(0) ? 0 : size;
}

/** A tensor of values that are rounded to its dtype, which is one of ours, each finite before and after. */
function encodeTensor(dtype, shape, values) {
  const { size, get, set } = DTYPES.get(dtype);
  ensure(byteSize(shape, dtype) === values.length * size, '8.2', 'a tensor has not as many values as its shape says');
  const data = new Uint8Array(values.length * size);
  const view = viewOf(data);
  for (let k = 0; k < values.length; k += 1) {
    ensure(Number.isFinite(values[k]), '8.3', 'a value is NaN or infinite');
    set(view, k * size, values[k]);
    ensure(Number.isFinite(get(view, k * size)), '8.3', () => `a value rounds to infinity in ${dtype}`);
  }
  return { dtype, shape, data };
}

/** The values of a tensor, widened to float32 or whole, each finite. */
function decodeTensor({ dtype, data }) {
  const { size, get } = DTYPES.get(dtype);
  const view = viewOf(data);
  const values = new (dtype === 'I32' ? Int32Array : Float32Array)(data.length / size);
  for (let k = 0; k < values.length; k += 1) {
    values[k] = get(view, k * size);
    ensure(Number.isFinite(values[k]), '8.3', 'a value is NaN or infinite');
  }
  return values;
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// ---- 8 File: container (SPEC 8.2, 8.4, 8.7) -------------------------------------------------------------------------

const MAX_HEADER_BYTES = 262144;
const FORMAT = 'unilora';
const VERSION = '1';

/** An adapter, { description, tensors }, from the bytes of a file, checked by all of SPEC 8. */
function readFile(bytes) {
  const { header, data } = splitFile(bytes);
  const metadata = header.get('__metadata__');
  header.delete('__metadata__');
  const text = readMetadata(metadata);
  const tensors = readTensors(header, data);
  const description = readDescription(parseJson(text));
  checkParts(description, tensors);
  return { description, tensors };
}

/** SPEC 8.2, 8.5: the header as a Map, and the data after it. */
function splitFile(bytes) {
  ensure(bytes.length >= 8, '8.2', 'the file has less than 8 bytes');
  const view = viewOf(bytes);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * TWO_32;
  ensure(length <= MAX_HEADER_BYTES, '8.2', 'the header is longer than 256 KiB');
  ensure(length <= bytes.length - 8, '8.2', 'the header is longer than the file');
  const text = decodeUtf8(bytes.subarray(8, 8 + length));
  ensure(text.startsWith('{'), '8.2', 'the header does not begin with "{"');
  return { header: parseJson(text), data: bytes.subarray(8 + length) };
}

/** SPEC 8.4: the text of the description. Format and version come before all else. */
function readMetadata(metadata) {
  ensure(metadata instanceof Map, '8.4', 'the header has no metadata');
  ensure(metadata.get('format') === FORMAT, '8.4', `the format is not "${FORMAT}"`);
  const version = metadata.get('version');
  ensure(version === VERSION, '8.4', () => `the file has version ${show(version)}; version ${VERSION} is read here`);
  checkFields(metadata, 'the metadata', ['format', 'version', 'unilora'], [], '8.4');
  const text = metadata.get('unilora');
  ensure(typeof text === 'string', '8.2', 'a field of the metadata is not a text');
  return text;
}

/** SPEC 8.2, 8.3: the tensors by name, in the order of their data. */
function readTensors(header, data) {
  const places = [...header].map(([name, fields]) => readPlace(name, fields));
  places.sort((one, other) => one.begin - other.begin || one.end - other.end);
  const tensors = new Map();
  let position = 0;
  for (const { name, dtype, shape, begin, end } of places) {
    ensure(begin === position, '8.2', () => `the tensor ${show(name)} does not begin where the last one ended`);
    ensure(end <= data.length, '8.2', () => `the tensor ${show(name)} goes beyond the file`);
    position = end;
    const tensor = { dtype, shape, data: data.subarray(begin, end) };
    decodeTensor(tensor);
    tensors.set(name, tensor);
  }
  ensure(position === data.length, '8.2', 'the tensors do not end with the file');
  return tensors;
}

/** SPEC 8.2: a tensor's field of the header. */
function readPlace(name, fields) {
  ensure(fields instanceof Map, '8.2', () => `the field ${show(name)} of the header is not an object`);
  checkFields(fields, 'a tensor', ['dtype', 'shape', 'data_offsets'], [], '8.2');
  const [dtype, shape, offsets] = [fields.get('dtype'), fields.get('shape'), fields.get('data_offsets')];
  checkDtype(dtype);
  const size = byteSize(shape, dtype);
  const sound = Array.isArray(offsets) && offsets.length === 2 && offsets.every((offset) => isWhole(offset, 0, TWO_53));
  ensure(sound, '8.2', () => `the offsets of the tensor ${show(name)} are not two whole numbers`);
  const [begin, end] = offsets;
  ensure(end - begin === size, '8.2', () => `the offsets of the tensor ${show(name)} do not agree with its shape`);
  return { name, dtype, shape, begin, end };
}

/** SPEC 8.3, 8.8: that the tensors are those that the description wants. */
function checkParts({ projection, segments }, tensors) {
  const theta = tensors.get('theta');
  ensure(theta, '8.3', 'there is no tensor "theta"');
  ensure(theta.shape.length === 1 && theta.shape[0] === projection.d, '8.8', 'the shape of theta is not [d]');
  const own = projection.tensor?.name;
  const adapted = new Set(segments.map((segment) => segment.name));
  for (const [name, { dtype }] of tensors) {
    if (name !== own) {
      ensure(name === 'theta' || /^saved\../s.test(name), '8.3', () => `the tensor ${show(name)} has no place here`);
      ensure(dtype !== 'I32', '8.3', () => `the tensor ${show(name)} is of whole numbers`);
      const parameter = name.slice('saved.'.length);
      ensure(!adapted.has(parameter), '8.8', () => `the parameter ${show(parameter)} is both adapted and saved`);
    }
  }
  if (own) {
    const tensor = tensors.get(own);
    ensure(tensor?.dtype === OWN_TENSORS.get(own).dtype, '8.3', `there is no tensor "${own}" of its dtype`);
    ensure(tensor.shape.length === 1, projection.tensor.rule, `the tensor "${own}" is not of one axis`);
    takeTensor(projection, decodeTensor(tensor));
  }
}

/** SPEC 8.7: the canonical bytes. Their header may be longer than a file's can be: see writeFile. */
function canonicalFile({ description, tensors }) {
  return pack(fieldsOf({ format: FORMAT, version: VERSION, unilora: description.text }), tensors);
}

/** A safetensors file of any metadata, a Map of texts. */
function pack(metadata, tensors) {
  const header = new Map([['__metadata__', metadata]]);
  const data = [];
  let position = 0;
  for (const [name, tensor] of [...tensors].sort(compareTensors)) {
    const end = position + tensor.data.length;
    header.set(name, fieldsOf({ dtype: tensor.dtype, shape: tensor.shape, data_offsets: [position, end] }));
    data.push(tensor.data);
    position = end;
  }
  return concat([...headerBytes(header), ...data]);
}

/** Larger elements first, then by the bytes of the names, which is not JavaScript's order beyond U+FFFF. */
function compareTensors([name, { dtype }], [otherName, { dtype: otherDtype }]) {
  const bySize = DTYPES.get(otherDtype).size - DTYPES.get(dtype).size;
  return bySize || compareBytes(encodeUtf8(name), encodeUtf8(otherName));
}

function compareBytes(bytes, other) {
  const at = bytes.findIndex((byte, k) => byte !== other[k]);
  return at < 0 || at >= other.length ? bytes.length - other.length : bytes[at] - other[at];
}

function concat(pieces) {
  const bytes = new Uint8Array(total(pieces.map((piece) => piece.length)));
  let position = 0;
  for (const piece of pieces) {
    bytes.set(piece, position);
    position += piece.length;
  }
  return bytes;
}

/** The length and the header with its spaces. */
function headerBytes(header) {
  const text = encodeUtf8(canonicalJson(header));
  const spaces = new Uint8Array((8 - text.length % 8) % 8).fill(0x20);
  const length = new Uint8Array(8);
  viewOf(length).setUint32(0, text.length + spaces.length, true);
  return [length, text, spaces];
}

/** SPEC 8.7, 8.10 */
function writeFile(adapter) {
  const bytes = canonicalFile(adapter);
  ensure(viewOf(bytes).getUint32(0, true) <= MAX_HEADER_BYTES, '8.2', 'the header would be longer than 256 KiB');
  return bytes;
}

// ---- 8 File: description (SPEC 8.6) ---------------------------------------------------------------------------------

/**
 * What is needed of a description as read from JSON, which is checked by SPEC 8.6 and, in itself, 8.8: its projection,
 * its layer map unfolded, and its canonical text.
 */
function readDescription(fields) {
  ensure(fields instanceof Map, '8.6', 'the description is not an object');
  checkFields(fields, 'the description', ['projection', 'alpha', 'layers'], ['scaling', 'base'], '8.6');
  const numbers = readNumbers(fields.get('projection'), []);
  const alpha = numberOf(fields.get('alpha'));
  ensure(alpha >= 1e-4 && alpha <= 2 ** 20, '7.7', 'alpha is not a number of 10^-4 to 2^20');
  const scaling = fields.get('scaling') ?? 'lora';
  ensure(scaling === 'lora' || scaling === 'rslora', '8.6', 'the scaling is neither lora nor rslora');
  const base = fields.get('base');
  if (base !== undefined) {
    checkBase(base);
  }
  const segments = unfold(fields.get('layers'));
  checkSize(numbers, segments, '8.8');
  const projection = makeProjection(numbers, segments);
  const text = canonicalDescription({ projection, alpha, scaling, base, segments });
  return { projection, segments, text };
}

/** SPEC 8.8 of a file, 9.2 of the initial vector. */
function checkSize({ D }, segments, rule) {
  const size = sizeOf(segments);
  ensure(size === D, rule, `D is ${D}, and the layer map has ${size} entries`);
}

/** The value of a number of JSON, with or without a point; NaN for anything else. */
function numberOf(value) {
  if (value instanceof Decimal) {
    return value.value;
  }
  return typeof value === 'number' ? value : NaN;
}

const OPTIONAL_OF_BASE = ['architecture', 'labels', 'problem_type', 'rest'];
const PROBLEM_TYPES = ['regression', 'single_label_classification', 'multi_label_classification'];

function checkBase(base) {
  ensure(base instanceof Map, '8.6', '"base" is not an object');
  checkFields(base, '"base"', ['name', 'structure', 'contents'], OPTIONAL_OF_BASE, '8.6');
  for (const field of ['name', 'architecture']) {
    ensure(typeof (base.get(field) ?? '') === 'string', '8.6', `"base.${field}" is not a text`);
  }
  for (const field of ['structure', 'contents']) {
    const value = base.get(field);
    const sound = typeof value === 'string' && /^[0-9a-f]{32}$/.test(value);
    ensure(sound, '8.6', `"base.${field}" is not 32 hexadecimal digits in small letters`);
  }
  const labels = base.get('labels') ?? [];
  const sound = Array.isArray(labels) && labels.every((label) => typeof label === 'string');
  ensure(sound, '8.6', '"base.labels" is not a list of texts');
  const outputs = base.get('problem_type') ?? PROBLEM_TYPES[0];
  ensure(PROBLEM_TYPES.includes(outputs), '8.6', `"base.problem_type" is not one of ${PROBLEM_TYPES.join(', ')}`);
  const rest = base.get('rest') ?? '';
  const whole = typeof rest === 'string' && /^(?:[0-9a-f]{16})*$/.test(rest);
  ensure(whole, '8.6', '"base.rest" is not 16 hexadecimal digits in small letters for each group');
}

function canonicalDescription({ projection, alpha, scaling, base, segments }) {
  const { kind, seed, d, D, options } = projection;
  return canonicalJson(fieldsOf({
    projection: fieldsOf({ kind, seed: String(seed), d, D, ...options }),
    alpha,
    layers: fold(segments),
    scaling: scaling === 'lora' ? undefined : scaling,
    base,
  }));
}

// ---- 9 Projection kinds ---------------------------------------------------------------------------------------------

/** SPEC 9.2 */
class Identity {
  constructor({ d, D, keys }) {
    ensure(d === D, '9.2', `the kind identity wants d = D, not d = ${d} and D = ${D}`);
    this.d = d;
    this.D = D;
    this.keys = keys;
  }

  index(row) {
    return row;
  }

  counts(start, stop) {
    return new Float64Array(stop - start).fill(1);
  }

  members(start, stop) {
    return new Float64Array(stop - start).map((_, k) => start + k);
  }
}

/** The initial vector of SPEC 9.2: small numbers in each A, 0 in all else. */
function initialIdentity({ d, keys }, segments) {
  const theta = new Float32Array(d);
  let start = 0;
  for (const segment of segments) {
    const bound = 1 / Math.sqrt(segment.in);
    const end = start + segment.rank * segment.in;
    for (let j = start; j < end; j += 1) {
      theta[j] = startOf(keys, j) * bound;
    }
    start += sizeOfSegment(segment);
  }
  return theta;
}

/** SPEC 9.4. Columns are counted and listed as those of `uniform` are. */
class Table extends Uniform {
  constructor(numbers) {
    super(numbers);
    this.tensor = { name: 'index', rule: '9.4', length: this.D, below: this.d };
  }

  index(row) {
    return this.values[row];
  }
}

// ---- 11 The family --------------------------------------------------------------------------------------------------
//
// A kind's constructor takes the numbers of `projection`, the options among them, and the layer map, and refuses what
// its rule refuses. What a slice asks for is computed entry by entry, and nothing is kept but θ, the kind's own tensor
// and numbers for each segment: not A_0, B_0 or any other matrix, and no more than one block of fastfood's.

/** Where the segments lie in θ_D. */
class Layout {
  constructor(D, segments) {
    const size = sizeOf(segments);
    ensure(size === D, '11.1', () => `D is ${D}, and the layer map has ${size} entries`);
    this.segments = segments;
    this.starts = startsOf(segments.map(sizeOfSegment));
  }

  /** The kinds whose rules are of A and B. */
  refuseRankZero() {
    ensure(this.segments.every(({ rank }) => rank > 0), '11.1', 'a segment has rank 0, and the kind wants A and B');
  }

  /** Of a row of θ_D: its segment's number, whether it belongs to A or to B, and its row and column there. */
  locate(row) {
    const k = lastUpTo(this.starts, row);
    const { rank, in: columns } = this.segments[k];
    const entry = row - this.starts[k];
    const inA = entry < rank * columns;
    const rest = inA ? entry : entry - rank * columns;
    const width = inA ? columns : rank;
    const column = rest % width;
    return { k, inA, row: (rest - column) / width, column };
  }

  largest(field) {
    return this.segments.reduce((most, segment) => Math.max(most, segment[field]), 0);
  }
}

/** Where ranges of these lengths begin, each where the last one ended, and where the last one ends. */
function startsOf(lengths) {
  const starts = new Float64Array(lengths.length + 1);
  lengths.forEach((length, k) => {
    starts[k + 1] = starts[k] + length;
  });
  return starts;
}

/** The number of the range that holds a position; ranges without an entry hold none. */
function lastUpTo(starts, position) {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (starts[middle] <= position) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/** h_t(i) of SPEC 11.2. i is below 2^53, as 11.6 bounds R · I and O · R. */
function stream(keys, t, i) {
  return mix(mix(i >>> 0, keys[10 + 2 * t]) ^ Math.floor(i / TWO_32), keys[11 + 2 * t]);
}

const uniformOf = (keys, t, i) => 2 * (stream(keys, t, i) / TWO_32) - 1;

function normalOf(keys, t, i) {
  let sum = 0;
  for (let k = 0; k < 12; k += 1) {
    sum += stream(keys, t, 12 * i + k);
  }
  return sum / TWO_32 - 6;
}

/**
 * The kinds of which each entry of θ_D is a sum of products, of a number that is not trained and of one or two of θ. A
 * kind gives `ranges` of θ with their beginnings (SPEC 11.5), and `visit`, which calls add(c, p, q) for each product
 * c · θ[p] · θ[q] of an entry, where p and q may be NONE.
 */
const NONE = -1;

class Products {
  constructor({ d, D, keys }, segments) {
    Object.assign(this, { d, D, keys });
    this.layout = new Layout(D, segments);
    this.layout.refuseRankZero();
  }

  /** Ranges of θ, as { length, begin }, whose lengths d follows from (SPEC 11.1). */
  setRanges(ranges) {
    this.ranges = ranges;
    this.starts = startsOf(ranges.map(({ length }) => length));
    const d = this.starts[ranges.length];
    ensure(d === this.d, '11.1', () => `d is ${this.d}, and the kind has ${d} numbers for this layer map`);
  }

  /** The product of two float32 is exact in float64, so it is rounded once. As −0 + x is x, a zero keeps its sign. */
  expand(theta, start, stop) {
    const values = new Float32Array(stop - start);
    for (let row = start; row < stop; row += 1) {
      let sum = -0;
      this.visit(row, (c, p, q) => {
        sum += c * (p === NONE ? 1 : theta[p]) * (q === NONE ? 1 : theta[q]);
      });
      values[row - start] = sum;
    }
    return values;
  }

  /** SPEC 11.4 */
  adjoint(theta, gradient, start) {
    const sums = new Float64Array(this.d);
    gradient.forEach((g, at) => {
      this.visit(start + at, (c, p, q) => {
        if (p !== NONE) {
          sums[p] += g * c * (q === NONE ? 1 : theta[q]);
        }
        if (q !== NONE) {
          sums[q] += g * c * theta[p];
        }
      });
    });
    return Float32Array.from(sums);
  }

  initial() {
    const theta = new Float32Array(this.d);
    this.ranges.forEach(({ begin }, k) => {
      for (let j = this.starts[k]; j < this.starts[k + 1]; j += 1) {
        theta[j] = begin(j);
      }
    });
    return theta;
  }

  /** Beginnings of SPEC 11.5. */
  uniform(bound) {
    return (j) => startOf(this.keys, j) * bound;
  }
}

const constantly = (value) => () => value;

/** SPEC 11.6 */
class Vera extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    [this.R, this.I, this.O] = ['rank', 'in', 'out'].map((field) => this.layout.largest(field));
    const most = Math.max(this.D, 2 ** 24);
    ensure(this.R * this.I <= most && this.O * this.R <= most, '11.6', `a shared matrix has more than ${most} entries`);
    this.setRanges(segments.flatMap(({ rank, out }) => [
      { length: rank, begin: constantly(0.1) },
      { length: out, begin: constantly(0) },
    ]));
  }

  visit(entry, add) {
    const { k, inA, row, column } = this.layout.locate(entry);
    const width = inA ? this.I : this.R;
    const frozen = Math.fround(uniformOf(this.keys, inA ? 1 : 2, row * width + column) * Math.sqrt(6 / width));
    add(frozen, this.starts[2 * k + (inA ? 0 : 1)] + row, NONE);
  }
}

/** SPEC 11.7: ranges 0 and 1 are A_0 and B_0. */
class Tied extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    [this.R, this.I, this.O] = ['rank', 'in', 'out'].map((field) => this.layout.largest(field));
    this.setRanges([
      { length: this.R * this.I, begin: this.uniform(1 / Math.sqrt(this.I)) },
      { length: this.O * this.R, begin: constantly(0) },
      ...segments.flatMap(({ rank, out }) => [
        { length: rank, begin: constantly(1) },
        { length: out, begin: constantly(1) },
      ]),
    ]);
  }

  visit(entry, add) {
    const { k, inA, row, column } = this.layout.locate(entry);
    const shared = inA ? row * this.I + column : this.starts[1] + row * this.R + column;
    add(1, this.starts[2 + 2 * k + (inA ? 0 : 1)] + row, shared);
  }
}

/** SPEC 11.8: ranges 0 and 1 are E and F, range 2 + k is the M of segment k. */
class Dense extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    [this.R, this.I, this.O] = ['rank', 'in', 'out'].map((field) => this.layout.largest(field));
    this.setRanges([
      { length: this.R * this.I, begin: this.uniform(1 / Math.sqrt(this.I)) },
      { length: this.O * this.R, begin: constantly(0) },
      ...segments.map(({ rank }) => ({ length: rank * rank, begin: this.uniform(1 / Math.sqrt(rank)) })),
    ]);
  }

  visit(entry, add) {
    const { k, inA, row, column } = this.layout.locate(entry);
    if (inA) {
      add(1, row * this.I + column, NONE);
      return;
    }
    const { rank } = this.layout.segments[k];
    for (let m = 0; m < rank; m += 1) {
      add(1, this.starts[1] + row * this.R + m, this.starts[2 + k] + m * rank + column);
    }
  }
}

/** SPEC 11.9: `frozen` is laid out as θ_D is, with F for A and G for B. */
class Xs extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    const begin = (j) => normalOf(this.keys, 0, j) * 1e-5;
    this.setRanges(segments.map(({ rank }) => ({ length: rank * rank, begin })));
    this.tensor = { name: 'frozen', rule: '11.9', length: this.D };
  }

  visit(entry, add) {
    const { k, inA, row, column } = this.layout.locate(entry);
    if (inA) {
      add(this.values[entry], NONE, NONE);
      return;
    }
    const { rank } = this.layout.segments[k];
    for (let m = 0; m < rank; m += 1) {
      add(this.values[entry - column + m], this.starts[k] + m * rank + column, NONE);
    }
  }
}

/** SPEC 11.16: range 0 is the v of all groups; `frozen` is as in 11.9. */
class Tiny extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    const { u, groups } = numbers;
    ensure(groups <= segments.length, '11.16', () => `there are ${groups} groups and ${segments.length} segments`);
    this.squareStarts = startsOf(segments.map(({ rank }) => rank * rank));
    ensure(u <= 2 ** 24 / this.squareStarts[segments.length], '11.16', 'the P_i have more than 2^24 entries');
    this.setRanges([{ length: u * groups, begin: constantly(0) }]);
    Object.assign(this, { u, groups });
    this.tensor = { name: 'frozen', rule: '11.16', length: this.D };
  }

  visit(entry, add) {
    const { k, inA, row, column } = this.layout.locate(entry);
    if (inA) {
      add(this.values[entry], NONE, NONE);
      return;
    }
    const { u, groups, layout: { segments } } = this;
    const { rank } = segments[k];
    const v = u * Math.floor(k * groups / segments.length);
    for (let m = 0; m < rank; m += 1) {
      const G = this.values[entry - column + m];
      for (let i = 0; i < u; i += 1) {
        const number = u * this.squareStarts[k] + (i * rank + m) * rank + column;
        add(G * Math.fround(normalOf(this.keys, 1, number) * (1 / Math.sqrt(rank))), v + i, NONE);
      }
    }
  }
}

/** SPEC 11.10 */
class Qr extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    this.setRanges(segments.map(({ rank, in: columns }) => ({ length: rank * columns, begin: constantly(0) })));
    this.frozenStarts = startsOf(segments.map(({ rank, out }) => out * rank));
    this.tensor = { name: 'frozen', rule: '11.10', length: this.frozenStarts[segments.length] };
  }

  visit(entry, add) {
    const { k, inA, row, column } = this.layout.locate(entry);
    const { rank, in: columns } = this.layout.segments[k];
    if (inA) {
      add(1, this.starts[k] + row * columns + column, NONE);
    } else {
      add(this.values[this.frozenStarts[k] + row * rank + column], NONE, NONE);
    }
  }
}

/** SPEC 11.11: range 0 is the bank, range 1 the weights. No matrices are multiplied, so that each step rounds. */
class Vb extends Products {
  constructor(numbers, segments) {
    super(numbers, segments);
    const { length: b, bank: h, topk: k } = numbers;
    const divides = segments.every((segment) => segment.in % b === 0 && segment.out % b === 0);
    ensure(divides, '11.11', 'the length does not divide the in and the out of every segment');
    const n = this.D / b;
    this.setRanges([
      { length: h * b, begin: this.uniform(0.02) },
      { length: n * (k - 1), begin: constantly(1 / k) },
    ]);
    Object.assign(this, { b, k });
    this.tensor = { name: 'index', rule: '11.11', length: n * k, below: h };
  }

  /** The places in θ of the first of an entry's weights, and of its number in each of the rows of the bank. */
  locate(entry) {
    const { b, k } = this;
    const { k: segment, inA, row, column } = this.layout.locate(entry);
    const { rank, in: columns } = this.layout.segments[segment];
    const along = inA ? column : row;
    const v = Math.floor(along / b);
    const within = inA ? row * (columns / b) + v : rank * (columns / b) + v * rank + column;
    const sub = this.layout.starts[segment] / b + within;
    const numbers = Array.from({ length: k }, (_, t) => this.values[sub * k + t] * b + along % b);
    return { weights: this.starts[1] + sub * (k - 1), numbers };
  }

  /** w_k */
  lastWeight(theta, weights) {
    let last = 1;
    for (let t = 0; t < this.k - 1; t += 1) {
      last = Math.fround(last - theta[weights + t]);
    }
    return last;
  }

  weight(theta, weights, t) {
    return t < this.k - 1 ? theta[weights + t] : this.lastWeight(theta, weights);
  }

  expand(theta, start, stop) {
    return new Float32Array(stop - start).map((_, at) => {
      const { weights, numbers } = this.locate(start + at);
      const products = numbers.map((number, t) => Math.fround(this.weight(theta, weights, t) * theta[number]));
      return products.reduce((sum, product) => Math.fround(sum + product));
    });
  }

  adjoint(theta, gradient, start) {
    const sums = new Float64Array(this.d);
    gradient.forEach((g, at) => {
      const { weights, numbers } = this.locate(start + at);
      const last = theta[numbers[this.k - 1]];
      numbers.forEach((number, t) => {
        sums[number] += g * this.weight(theta, weights, t);
        if (t < this.k - 1) {
          sums[weights + t] += g * (theta[number] - last);
        }
      });
    });
    return Float32Array.from(sums);
  }
}

/** SPEC 11.12 */
class Fastfood {
  constructor({ d, D, keys }, segments) {
    Object.assign(this, { d, D, keys, layout: new Layout(D, segments) });
    this.L = 1;
    while (this.L < d) {
      this.L *= 2;
    }
    this.S = 1 / Math.sqrt(D * this.L);
  }

  /** b, π and float32(g · S) of block k. */
  block(k) {
    const numbers = new Float64Array(this.L).map((_, i) => k * this.L + i);
    return {
      b: new Float32Array(numbers.map((number, i) => (i < this.d ? this.sign(number) : 0))),
      order: orderOf(numbers.map((number) => stream(this.keys, 3, number))),
      g: new Float32Array(numbers.map((number) => normalOf(this.keys, 2, number) * this.S)),
    };
  }

  sign(number) {
    return stream(this.keys, 1, number) < 2 ** 31 ? 1 : -1;
  }

  /** Calls `action` with each block that a slice has entries of, where it begins, and the slice's part of it. */
  visit(start, stop, action) {
    for (let first = start - start % this.L; start < stop && first < stop; first += this.L) {
      action(this.block(first / this.L), first, Math.max(start - first, 0), Math.min(stop - first, this.L));
    }
  }

  expand(theta, start, stop) {
    const values = new Float32Array(stop - start);
    this.visit(start, stop, ({ b, order, g }, first, from, to) => {
      const x = steps(b.map((sign, i) => sign * theta[Math.min(i, this.d - 1)])); // 0 times a negative number is −0
      const y = steps(g.map((factor, i) => x[order[i]] * factor));
      values.set(y.subarray(from, to), first + from - start);
    });
    return values;
  }

  adjoint(theta, gradient, start) {
    const sums = new Float64Array(this.d);
    this.visit(start, start + gradient.length, ({ b, order, g }, first, from, to) => {
      const z = new Float64Array(this.L);
      z.set(gradient.subarray(first + from - start, first + to - start), from);
      const y = stepsBack(z);
      const x = new Float64Array(this.L);
      order.forEach((place, i) => {
        x[place] = y[i] * g[i];
      });
      stepsBack(x).subarray(0, this.d).forEach((value, i) => {
        sums[i] += b[i] * value;
      });
    });
    return Float32Array.from(sums);
  }

  initial() {
    return new Float32Array(this.d).map((_, j) => startOf(this.keys, j) * 0.02);
  }
}

/** The places of 32-bit numbers in their order, of equal ones the lower first: 64 bits hold a number and its place. */
function orderOf(numbers) {
  const low = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1 ? 0 : 1; // where the machine has a number's low half
  const halves = new Uint32Array(2 * numbers.length);
  numbers.forEach((number, i) => {
    halves[2 * i + low] = i;
    halves[2 * i + 1 - low] = number;
  });
  new BigUint64Array(halves.buffer).sort();
  return new Uint32Array(numbers.length).map((_, i) => halves[2 * i + low]);
}

/** H of SPEC 11.12, in the precision of the array. */
function steps(z) {
  const half = z.length / 2;
  let [from, to] = [z, z.slice()];
  for (let length = 1; length < z.length; length *= 2) {
    for (let j = 0; j < half; j += 1) {
      to[j] = from[2 * j] + from[2 * j + 1];
      to[half + j] = from[2 * j] - from[2 * j + 1];
    }
    [from, to] = [to, from];
  }
  return from;
}

/** Hᵀ */
function stepsBack(z) {
  const half = z.length / 2;
  let [from, to] = [z, z.slice()];
  for (let length = 1; length < z.length; length *= 2) {
    for (let j = 0; j < half; j += 1) {
      to[2 * j] = from[j] + from[half + j];
      to[2 * j + 1] = from[j] - from[half + j];
    }
    [from, to] = [to, from];
  }
  return from;
}

/**
 * SPEC 11.13 to 11.15: θ_D in parts, each `balanced` by itself. A kind gives `columns`, where the parts begin among the
 * columns of θ, rows(part), how many entries a part has, and two ways: place(row), to { part, entry }, and back,
 * rowOf(part, entry). A permutation is made once its part is asked for, as there may be 65,536.
 */
class Parts {
  constructor({ d, D, seed, keys }, segments) {
    Object.assign(this, { d, D, seed, keys, layout: new Layout(D, segments), permutations: new Map() });
  }

  permutation(part) {
    if (!this.permutations.has(part)) {
      const [high, low] = [10, 11].map((t) => BigInt(keyOf(this.seed, t + 2 * part)));
      this.permutations.set(part, new Permutation(this.rows(part), keysOf(high << 32n | low)));
    }
    return this.permutations.get(part);
  }

  columnsOf(part) {
    return this.columns[part + 1] - this.columns[part];
  }

  index(row) {
    const { part, entry } = this.place(row);
    return this.columns[part] + this.permutation(part).forward(entry) % this.columnsOf(part);
  }

  /** SPEC 4.6 within a part, of a column of θ. */
  column(j) {
    const part = lastUpTo(this.columns, j);
    const [rows, columns, own] = [this.rows(part), this.columnsOf(part), j - this.columns[part]];
    return { part, own, columns, count: Math.floor(rows / columns) + (own < rows % columns ? 1 : 0) };
  }

  counts(start, stop) {
    return new Float64Array(stop - start).map((_, k) => this.column(start + k).count);
  }

  members(start, stop, counts) {
    const members = new Float64Array(total(counts));
    let from = 0;
    for (let j = start; j < stop; j += 1) {
      const { part, own, columns, count } = this.column(j);
      const column = members.subarray(from, from + count);
      for (let k = 0; k < count; k += 1) {
        column[k] = this.rowOf(part, this.permutation(part).backward(own + k * columns));
      }
      column.sort();
      from += count;
    }
    return members;
  }
}

/** ⌊a · b / c⌋, of products up to 2^71 (SPEC 1.4). */
const quotient = (a, b, c) => Number(BigInt(a) * BigInt(b) / BigInt(c));

/** SPEC 11.13. Of each layer, `own` are its segments, and `before` where their entries begin in it. */
class Layerwise extends Parts {
  constructor(numbers, segments) {
    super(numbers, segments);
    const layers = new Map();
    this.layerOf = segments.map(({ name }) => {
      const layer = headsOf(name)[0]?.head ?? name;
      return layers.has(layer) ? layers.get(layer) : layers.set(layer, layers.size).get(layer);
    });
    this.own = Array.from({ length: layers.size }, () => []);
    this.layerOf.forEach((layer, k) => this.own[layer].push(k));
    this.before = this.own.map((own) => startsOf(own.map((k) => sizeOfSegment(segments[k]))));
    this.within = new Float64Array(segments.length);
    this.own.forEach((own, layer) => own.forEach((k, at) => {
      this.within[k] = this.before[layer][at];
    }));
    const ends = startsOf(this.own.map((_, layer) => this.rows(layer)));
    this.columns = ends.map((end) => quotient(this.d, end, this.D));
    const sound = this.own.every((_, layer) => this.columnsOf(layer) > 0);
    ensure(sound, '11.13', 'd is too small: a layer gets no column');
  }

  rows(layer) {
    return this.before[layer].at(-1);
  }

  place(row) {
    const k = lastUpTo(this.layout.starts, row);
    return { part: this.layerOf[k], entry: this.within[k] + row - this.layout.starts[k] };
  }

  rowOf(layer, entry) {
    const at = lastUpTo(this.before[layer], entry);
    return this.layout.starts[this.own[layer][at]] + entry - this.before[layer][at];
  }
}

/** SPEC 11.14: part 0 is all A, part 1 all B; `before` says where the segments begin in each. */
class Nonuniform extends Parts {
  constructor(numbers, segments) {
    super(numbers, segments);
    this.layout.refuseRankZero();
    this.before = [
      startsOf(segments.map(({ rank, in: columns }) => rank * columns)),
      startsOf(segments.map(({ rank, out }) => rank * out)),
    ];
    const { of_A: ofA, of_B: ofB } = numbers;
    this.columns = [0, quotient(this.d, ofA, ofA + ofB), this.d];
    const sound = [0, 1].every((part) => this.columnsOf(part) >= 1 && this.columnsOf(part) <= this.rows(part));
    ensure(sound, '11.14', 'A or B has no column, or more columns than entries');
  }

  rows(part) {
    return this.before[part].at(-1);
  }

  place(row) {
    const k = lastUpTo(this.layout.starts, row);
    const entry = row - this.layout.starts[k];
    const sizeOfA = this.before[0][k + 1] - this.before[0][k];
    return entry < sizeOfA
      ? { part: 0, entry: this.before[0][k] + entry }
      : { part: 1, entry: this.before[1][k] + entry - sizeOfA };
  }

  rowOf(part, entry) {
    const k = lastUpTo(this.before[part], entry);
    const { rank, in: columns } = this.layout.segments[k];
    return this.layout.starts[k] + (part === 0 ? 0 : rank * columns) + entry - this.before[part][k];
  }
}

/** SPEC 11.15: a link has 1/K of each segment, so that all links have their segments at the same places. */
class Chain extends Parts {
  constructor(numbers, segments) {
    super(numbers, segments);
    this.layout.refuseRankZero();
    const { links } = numbers;
    const divides = this.d % links === 0 && segments.every(({ rank }) => rank % links === 0);
    ensure(links <= MAX_SEGMENTS && divides, '11.15', 'the links are more than 65,536, or do not divide d or a rank');
    this.links = links;
    this.columns = Float64Array.from({ length: links + 1 }, (_, link) => link * (this.d / links));
    this.starts = this.layout.starts.map((start) => start / links);
  }

  rows() {
    return this.D / this.links;
  }

  place(entry) {
    const { k, inA, row, column } = this.layout.locate(entry);
    const { rank, in: columns } = this.layout.segments[k];
    const own = rank / this.links;
    const along = inA ? row : column;
    const part = Math.floor(along / own);
    const within = inA ? (row - part * own) * columns + column : own * columns + row * own + column - part * own;
    return { part, entry: this.starts[k] + within };
  }

  rowOf(link, entry) {
    const k = lastUpTo(this.starts, entry);
    const { rank, in: columns } = this.layout.segments[k];
    const [start, own, within] = [this.layout.starts[k], rank / this.links, entry - this.starts[k]];
    if (within < own * columns) {
      return start + link * own * columns + within;
    }
    const column = (within - own * columns) % own;
    const row = (within - own * columns - column) / own;
    return start + rank * columns + row * rank + link * own + column;
  }

  /** All but link 0 begin at 0. */
  initial(bound) {
    return initial(this, bound).fill(0, this.columns[1]);
  }
}

// ---- 9, 11 Kinds by their names -------------------------------------------------------------------------------------
//
// `options` are a kind's own numbers with the least that each may be (SPEC 11.1), `layered` says that it knows the
// layer map, `tensor` names its own tensor. An object of a kind says more of that in its field `tensor`: the rule, the
// length, and for an index what its entries are below. It keeps the tensor's numbers as `values`.

const KINDS = new Map(Object.entries({
  balanced: { Kind: Balanced },
  uniform: { Kind: Uniform },
  identity: { Kind: Identity },
  table: { Kind: Table, tensor: 'index' },
  vera: { Kind: Vera, layered: true },
  tied: { Kind: Tied, layered: true },
  dense: { Kind: Dense, layered: true },
  xs: { Kind: Xs, layered: true, tensor: 'frozen' },
  qr: { Kind: Qr, layered: true, tensor: 'frozen' },
  vb: { Kind: Vb, layered: true, tensor: 'index', options: { length: 1, bank: 1, topk: 1 } },
  fastfood: { Kind: Fastfood, layered: true },
  layerwise: { Kind: Layerwise, layered: true },
  nonuniform: { Kind: Nonuniform, layered: true, options: { of_A: 1, of_B: 1 } },
  chain: { Kind: Chain, layered: true, options: { links: 2 } },
  tiny: { Kind: Tiny, layered: true, tensor: 'frozen', options: { u: 1, groups: 1 } },
}));

/** The numbers of `projection` (SPEC 8.6), which in a request has the fields `others` as well. */
function readNumbers(fields, others) {
  ensure(fields instanceof Map, '8.6', '"projection" is not an object');
  const kind = fields.get('kind');
  ensure(typeof kind === 'string', '8.6', 'the kind of the projection is not a text');
  ensure(KINDS.has(kind), '9.1', () => `the kind ${show(kind)} is unknown; known are ${[...KINDS.keys()].join(', ')}`);
  const least = KINDS.get(kind).options ?? {};
  checkFields(fields, '"projection"', ['kind', 'seed', 'd', 'D', ...Object.keys(least)], others, '8.6');
  const seed = parseSeed(fields.get('seed'));
  const [d, D] = [fields.get('d'), fields.get('D')];
  ensure(Number.isInteger(d), '8.6', '"d" is not a number without a point');
  ensure(Number.isInteger(D), '8.6', '"D" is not a number without a point');
  checkDimensions(d, D, !(KINDS.get(kind).Kind.prototype instanceof Products));
  const options = {};
  for (const [name, low] of Object.entries(least)) {
    options[name] = fields.get(name);
    ensure(Number.isInteger(options[name]), '8.6', `"${name}" is not a number without a point`);
    ensure(isWhole(options[name], low, MAX_COLUMNS), '11.1', `"${name}" is not a whole number of ${low} to 2^31 - 1`);
  }
  return { kind, seed, d, D, options };
}

/** An object of the kind's class, of numbers and a layer map that may be undefined for kinds that do not know it. */
function makeProjection({ kind, seed, d, D, options }, segments) {
  const numbers = { d, D, seed, keys: keysOf(seed, 18), ...options }; // up to K_17, of stream 3
  return Object.assign(new (KINDS.get(kind).Kind)(numbers, segments), { kind, seed, options });
}

/** The numbers of a kind's own tensor, checked. */
function takeTensor(projection, values) {
  const { name, rule, length, below } = projection.tensor;
  ensure(values.length === length, rule, () => `"${name}" has ${values.length} numbers in place of ${length}`);
  const sound = (value) => (below === undefined ? Number.isFinite(value) : value >= 0 && value < below);
  ensure(values.every(sound), rule, `"${name}" has numbers that it cannot have`);
  projection.values = values;
}

/** θ_D from row `start` to row `stop`, of any kind. */
function expandAny(projection, theta, start, stop) {
  return projection.index ? expand(projection, theta, start, stop) : projection.expand(theta, start, stop);
}

/** The vector that a training begins with, of any kind: SPEC 6.4 by its `bound`, or 9.2 and 11.5 without one. */
function initialAny(projection, segments, bound) {
  if (projection.kind === 'identity') {
    return initialIdentity(projection, segments);
  }
  return projection.initial ? projection.initial(bound) : initial(projection, bound);
}

// ---- PROTOCOL.md: arrays --------------------------------------------------------------------------------------------

// An answer has 64 MiB, and base64 makes four bytes of three. What a request asks for is measured by this before it is
// computed, so that a few numbers cannot make us build more than we could answer. The margin is for all else.
const MAX_ARRAY_BYTES = 47 * 2 ** 20;

const U32 = {
  size: 4,
  get: (view, at) => view.getUint32(at, true),
  set: (view, at, value) => view.setUint32(at, value, true),
};

const F32 = DTYPES.get('F32');

// In two halves. Beyond 2^53 the sum rounds, but stays beyond every limit.
const I64 = {
  size: 8,
  get: (view, at) => view.getUint32(at, true) + view.getInt32(at + 4, true) * TWO_32,
  set: (view, at, value) => {
    view.setUint32(at, value >>> 0, true);
    view.setInt32(at + 4, Math.floor(value / TWO_32), true);
  },
};

/** The tensors that some kinds have (SPEC 8.3): their dtype in a file, and their elements in a request. */
const OWN_TENSORS = new Map([['index', { dtype: 'I32', element: I64 }], ['frozen', { dtype: 'F32', element: F32 }]]);

/** node's decoder skips what is not base64; encoding again shows whether there was any. */
function decodeBytes(text) {
  ensure(typeof text === 'string', null, 'an array is not a text');
  const bytes = Buffer.from(text, 'base64');
  ensure(bytes.toString('base64') === text, null, 'an array is not base64');
  return bytes;
}

function decodeArray(text, { size, get }) {
  const bytes = decodeBytes(text);
  ensure(bytes.length % size === 0, '1.3', `an array is not a number of elements of ${size} bytes`);
  const view = viewOf(bytes);
  return new Float64Array(bytes.length / size).map((_, k) => get(view, k * size));
}

/** An array that SPEC 1.3 wants to have a certain length. */
function decodeVector(text, length) {
  const values = decodeArray(text, F32);
  ensure(values.length === length, '1.3', `a vector has ${values.length} numbers in place of ${length}`);
  return values;
}

function encodeArray(values, { size, set }) {
  const bytes = Buffer.alloc(values.length * size);
  const view = viewOf(bytes);
  values.forEach((value, k) => set(view, k * size, value));
  return bytes.toString('base64');
}

function checkAnswer(length, { size }) {
  ensure(length * size <= MAX_ARRAY_BYTES, null, 'the answer would be longer than a line can be');
}

// ---- PROTOCOL.md: requests ------------------------------------------------------------------------------------------

function fieldOf(request, name) {
  ensure(request.has(name), null, `the request has no field "${name}"`);
  return request.get(name);
}

/** The slice of a request, of `length` rows or columns, whose answer has elements of a type. */
function sliceOf(request, length, element) {
  const [start, stop] = [fieldOf(request, 'start'), fieldOf(request, 'stop')];
  checkRange(start, stop, length);
  checkAnswer(stop - start, element);
  return [start, stop];
}

/** The projection of a request, with what a kind takes from the layer map or from a tensor of a file. */
function projectionOf(request) {
  const fields = fieldOf(request, 'projection');
  const { layered, tensor } = (fields instanceof Map && KINDS.get(fields.get('kind'))) || {};
  const numbers = readNumbers(fields, [...(layered ? ['layers'] : []), ...(tensor ? [tensor] : [])]);
  const projection = makeProjection(numbers, layered ? unfold(fields.get('layers')) : undefined);
  if (tensor) {
    takeTensor(projection, decodeArray(fieldOf(fields, tensor), OWN_TENSORS.get(tensor).element));
  }
  return projection;
}

/** The projection of a request that only kinds with an index can answer. */
function indexedOf(request) {
  const projection = projectionOf(request);
  ensure(projection.index, '9.3', `the kind ${projection.kind} has no index`);
  return projection;
}

/** The permutation of a request, and the numbers of its field, all in [0, D). */
function permutationOf(request, field) {
  const D = fieldOf(request, 'D');
  checkRows(D);
  const permutation = new Permutation(D, keysOf(parseSeed(fieldOf(request, 'seed'))));
  const numbers = decodeArray(fieldOf(request, field), I64);
  ensure(numbers.every((number) => number >= 0 && number < D), '1.3', `a number is not in [0, ${D})`);
  return { permutation, numbers };
}

/** A tensor of a request. One of I32 is a kind's, whose rule refuses numbers beyond 32 bits before they could wrap. */
function readGivenTensor(fields, { tensor }) {
  ensure(fields instanceof Map, null, 'a tensor is not an object');
  const [dtype, shape] = [fieldOf(fields, 'dtype'), fieldOf(fields, 'shape')];
  checkDtype(dtype);
  if (dtype !== 'I32') {
    return encodeTensor(dtype, shape, decodeArray(fieldOf(fields, 'values'), F32));
  }
  const values = decodeArray(fieldOf(fields, 'index'), I64);
  const sound = values.every((value) => isWhole(value, -(2 ** 31), 2 ** 31 - 1));
  ensure(sound, tensor?.rule ?? '8.3', 'a number of an index is beyond 32 bits');
  return encodeTensor(dtype, shape, values);
}

const REQUESTS = new Map(Object.entries({
  describe() {
    return { name: 'unilora.mjs', version: VERSION, requests: [...REQUESTS.keys()], kinds: [...KINDS.keys()] };
  },

  keys(request) {
    return { keys: encodeArray(keysOf(parseSeed(fieldOf(request, 'seed'))), U32) };
  },

  mix(request) {
    const key = fieldOf(request, 'key');
    ensure(isWhole(key, 0, TWO_32 - 1), '3.1', 'the key is not a 32-bit number');
    const words = decodeArray(fieldOf(request, 'words'), U32);
    return { mixed: encodeArray(words.map((word) => mix(word, key)), U32) };
  },

  permutation(request) {
    const { permutation, numbers } = permutationOf(request, 'x');
    return { y: encodeArray(numbers.map((x) => permutation.forward(x)), I64) };
  },

  inverse(request) {
    const { permutation, numbers } = permutationOf(request, 'y');
    return { x: encodeArray(numbers.map((y) => permutation.backward(y)), I64) };
  },

  index(request) {
    const projection = indexedOf(request);
    const [start, stop] = sliceOf(request, projection.D, I64);
    const index = new Float64Array(stop - start).map((_, k) => projection.index(start + k));
    return { index: encodeArray(index, I64) };
  },

  members(request) {
    const projection = indexedOf(request);
    const [start, stop] = sliceOf(request, projection.d, I64);
    const counts = projection.counts(start, stop);
    checkAnswer(counts.length + total(counts), I64);
    const members = projection.members(start, stop, counts);
    return { counts: encodeArray(counts, I64), members: encodeArray(members, I64) };
  },

  scale(request) {
    const projection = indexedOf(request);
    const [start, stop] = sliceOf(request, projection.d, F32);
    return { scale: encodeArray(projection.counts(start, stop).map(scaleOf), F32) };
  },

  initial(request) {
    const projection = projectionOf(request);
    checkAnswer(projection.d, F32);
    if (projection.kind === 'identity') {
      const segments = unfold(fieldOf(request, 'layers'));
      checkSize(projection, segments, '9.2');
      return { theta: encodeArray(initialAny(projection, segments), F32) };
    }
    const bound = numberOf(fieldOf(request, 'bound'));
    ensure(!Number.isNaN(bound), '6.4', 'the bound is not a number');
    return { theta: encodeArray(initialAny(projection, undefined, bound), F32) };
  },

  expand(request) {
    const projection = projectionOf(request);
    const [start, stop] = sliceOf(request, projection.D, F32);
    const theta = decodeVector(fieldOf(request, 'theta'), projection.d);
    return { theta_D: encodeArray(expandAny(projection, theta, start, stop), F32) };
  },

  adjoint(request) {
    const projection = projectionOf(request);
    checkAnswer(projection.d, F32);
    const [start, stop] = sliceOf(request, projection.D, F32);
    const gradient = decodeVector(fieldOf(request, 'g'), stop - start);
    if (projection.index) {
      return { theta: encodeArray(adjoint(projection, gradient, start), F32) };
    }
    const theta = decodeVector(fieldOf(request, 'theta'), projection.d);
    return { theta: encodeArray(projection.adjoint(theta, gradient, start), F32) };
  },

  read(request) {
    const bytes = decodeBytes(fieldOf(request, 'file'));
    const adapter = readFile(bytes);
    const tensors = [...adapter.tensors].map(([name, tensor]) => [name, {
      dtype: tensor.dtype,
      shape: tensor.shape,
      ...(tensor.dtype === 'I32'
        ? { index: encodeArray(decodeTensor(tensor), I64) }
        : { values: encodeArray(decodeTensor(tensor), F32) }),
    }]);
    return {
      description: adapter.description.text,
      tensors: Object.fromEntries(tensors),
      canonical: compareBytes(canonicalFile(adapter), bytes) === 0,
    };
  },

  write(request) {
    const description = readDescription(fieldOf(request, 'description'));
    const given = fieldOf(request, 'tensors');
    ensure(given instanceof Map, null, '"tensors" is not an object');
    const { projection } = description;
    const tensors = new Map([...given].map(([name, fields]) => [name, readGivenTensor(fields, projection)]));
    checkParts(description, tensors);
    return { file: Buffer.from(writeFile({ description, tensors })).toString('base64') };
  },
}));

// ---- PROTOCOL.md: lines ---------------------------------------------------------------------------------------------

/**
 * The request is read as SPEC 8.5 wants files to be, as JSON.parse could not say whether a number of a description has
 * a point. A description may be nested as deeply as in a file, below the request.
 *
 * Any other error than a refusal is a fault of this program, and ends it: it must not look like a refusal.
 */
function answer(line) {
  try {
    const request = parseJson(decodeUtf8(line), MAX_DEPTH + 1);
    const respond = request instanceof Map ? REQUESTS.get(request.get('request')) : undefined;
    ensure(respond, null, 'unknown request');
    return respond(request);
  } catch (error) {
    if (error instanceof Refusal) {
      return { refused: error.rule, message: error.message };
    }
    throw error;
  }
}

/** The lines of a stream, as bytes. (The module readline would also split at characters that JSON allows in texts.) */
async function* linesOf(stream) {
  let pieces = [];
  for await (const chunk of stream) {
    let start = 0;
    for (let end = chunk.indexOf('\n'); end >= 0; end = chunk.indexOf('\n', start)) {
      pieces.push(chunk.subarray(start, end));
      yield Buffer.concat(pieces);
      pieces = [];
      start = end + 1;
    }
    pieces.push(chunk.subarray(start));
  }
  const last = Buffer.concat(pieces);
  if (last.length > 0) {
    yield last;
  }
}

/** Whether node was started with this file, which nobody imports then. Links are followed, as node does. */
async function isProgram() {
  const started = globalThis.process?.argv?.[1];
  if (!started) {
    return false;
  }
  const { existsSync, realpathSync } = await import('node:fs');
  const { pathToFileURL } = await import('node:url');
  return existsSync(started) && pathToFileURL(realpathSync(started)).href === import.meta.url;
}

if (await isProgram()) {
  for await (const line of linesOf(process.stdin)) {
    process.stdout.write(`${JSON.stringify(answer(line))}\n`);
  }
}

// ---- As a library ---------------------------------------------------------------------------------------------------

export {
  Permutation, keysOf, parseSeed, // SPEC 2 to 4
  expandAny as expand, initialAny as initial, // SPEC 6, of an adapter's projection
  decodeTensor, encodeTensor, readDescription, readFile, writeFile, // SPEC 8
  canonicalJson, parseJson, pack, readTensors, splitFile, // the container, which holds other things too
  Refusal,
};
