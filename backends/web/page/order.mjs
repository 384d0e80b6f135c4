// The order of rows in a training, which is that of the other backends, so that one seed gives the same batches in Python and here.

import { Permutation, keysOf } from '../../../conformance_tests/examples/unilora.mjs';

const RUN = 50; // batches whose rows are sorted by length

/** The numbers 0 … count - 1 in the order of π of SPEC 4. */
function permuted(count, seed) {
  const permutation = new Permutation(count, keysOf(seed));
  return Array.from({ length: count }, (_, x) => permutation.forward(x));
}

/**
 * The batches of an epoch, each a list of rows' numbers. `lengths` are the rows' in characters, `seed` is a BigInt below 2^64.
 *
 * Rows are shuffled; within runs of 50 batches the longest come first, so that rows of like length share a batch; and the full batches
 * are shuffled. A last batch of fewer rows stays last.
 */
export function batchesOf(lengths, size, seed, epoch) {
  const own = BigInt.asUintN(64, seed + BigInt(epoch));
  const order = permuted(lengths.length, own);
  let sorted = [];
  for (let start = 0; start < order.length; start += RUN * size) {
    const run = order.slice(start, start + RUN * size);
    sorted = sorted.concat(run.sort((one, other) => lengths[other] - lengths[one])); // stable, as ECMAScript has it
  }
  const full = Math.floor(sorted.length / size);
  const batches = full === 0 ? [] : permuted(full, own).map((k) => sorted.slice(k * size, (k + 1) * size));
  if (full * size < sorted.length) {
    batches.push(sorted.slice(full * size));
  }
  return batches;
}
