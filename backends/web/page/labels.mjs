// Makes classes of the cells of a column of labels, as the Python backends do.

import { ensure } from './refused.mjs';

// The texts that a .csv file has in place of a missing label: those that pandas reads as missing.
const MISSING = new Set([
  '', '#N/A', '#N/A N/A', '#NA', '-1.#IND', '-1.#QNAN', '-NaN', '-nan', '1.#IND', '1.#QNAN', '<NA>', 'N/A', 'NA', 'NULL', 'NaN',
  'None', 'n/a', 'nan', 'null',
]);
const UNSEEN = /[\u200b\u2060\ufeff\u00ad\u200e\u200f]/g;
const NUMBER = /^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$/;
const WHOLE = /^[-+]?[0-9]+$/;
const BLANKS = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/; // Python's

export const isBlank = (text) => text.split(BLANKS).join('') === '';

/** A label's text: composed (NFC), without invisible characters, and with one space for blanks. */
export function valueOf(cell) {
  return cell.normalize('NFC').replace(UNSEEN, '').split(BLANKS).filter((word) => word !== '').join(' ');
}

export const isMissing = (cell) => MISSING.has(valueOf(cell));

/**
 * The classes of values and the class of each value: { names, numbers }, where `numbers` is a Map from a value to its class's number.
 *
 * Numbers are in the order of numbers, and 1.0 is the class 1; other names are in the order of their letters. Classes that are those
 * of `known`, a list or undefined, keep its order. `what` names the rows, and `column` the column, in a refusal.
 */
export function classesOf(values, known, what, column) {
  const distinct = [...new Set(values)];
  const numeric = distinct.every((value) => NUMBER.test(value));
  ensure(!numeric || distinct.every((value) => Number.isInteger(Number(value))), () => (
    `${what}: the column ${column} holds numbers that are not whole; the page learns classes, so give a column of classes`));
  const nameOf = new Map(distinct.map((value) => [value, numeric ? wholeName(value, distinct) : value]));
  let names = [...new Set(nameOf.values())].sort(numeric ? (one, other) => one - other : byCodePoints);
  checkSpelling(names, what, column);
  ensure(names.length > 1, () => `${what}: the column ${column} has the one value "${names[0]}"; give examples of two classes or more`);
  if (known) {
    const strange = names.find((name) => !known.includes(name));
    ensure(strange === undefined, () => (
      `${what}: the column ${column} has the class "${strange}", and the adapter knows ${known.join(', ')}; give examples of its classes`));
    names = known;
  }
  return { names, numbers: new Map([...nameOf].map(([value, name]) => [value, names.indexOf(name)])) };
}

/** The spelling of a whole number as the class: the first by its letters of those without a point, or else the number itself. */
function wholeName(value, others) {
  const spellings = others.filter((other) => Number(other) === Number(value) && WHOLE.test(other)).sort(byCodePoints);
  return spellings[0] ?? String(Number(value));
}

function checkSpelling(names, what, column) {
  const seen = new Map();
  for (const name of names) {
    const key = name.normalize('NFKC').toLowerCase();
    ensure(!seen.has(key), () => (
      `${what}: the column ${column} has "${seen.get(key)}" and "${name}", which look like one class; write it one way`));
    seen.set(key, name);
  }
}

/** The order of Python's texts, which beyond U+FFFF is not JavaScript's own. */
function byCodePoints(one, other) {
  const [points, others] = [[...one], [...other]].map((letters) => letters.map((letter) => letter.codePointAt(0)));
  const at = points.findIndex((point, k) => point !== others[k]);
  return at < 0 || at >= others.length ? points.length - others.length : points[at] - others[at];
}
