// Splits a table of text into rows to train on and held-out rows, as the Python backends do.

import { classesOf, isBlank, isMissing, valueOf } from './labels.mjs';
import { ensure } from './refused.mjs';

const SEPARATORS = { comma: ',', semicolon: ';', tab: '\t', bar: '|' };
const LOOKED_AT = 100; // records by which the separator is found

/**
 * The table of a .csv or .tsv file's text: { columns, records }, all cells texts. `parse` is csv-parse's, `name` the file's.
 *
 * The separator is the one that gives each of the first records as many cells as the header, and several.
 */
export function readTable(text, name, parse) {
  const records = (separator, most) => parse(text, {
    bom: true, delimiter: separator, relax_column_count: true, skip_empty_lines: true, ...(most && { to: most }),
  });
  const even = Object.entries(SEPARATORS).filter(([, separator]) => isEven(separator, records));
  ensure(even.length < 2, () => (
    `${name}: more than one separator fits its columns: ${even.map(([word]) => word).join(' or ')}; put quotes around the texts`));
  let rows;
  try {
    rows = records(even.length ? even[0][1] : name.toLowerCase().endsWith('.tsv') ? '\t' : ',');
  } catch (error) {
    ensure(false, `${name}: the table could not be read: ${error.message}; write a quote within quotes twice`);
  }
  ensure(rows.length > 1, `${name}: there are no rows; give a line with the columns' names, and a line for each example`);
  const columns = rows[0].map((cell) => cell.trim());
  const long = rows.findIndex((row) => row.slice(columns.length).some((cell) => cell.trim() !== ''));
  ensure(long < 0, () => (
    `${name}: row ${long} has ${rows[long].length} cells and the header ${columns.length}; put quotes around a text that holds a separator`));
  return { name, columns, records: rows.slice(1) };
}

function isEven(separator, records) {
  try {
    const widths = new Set(records(separator, LOOKED_AT).map((record) => record.length));
    return widths.size === 1 && [...widths][0] > 1;
  } catch {
    return false;
  }
}

/**
 * A number in [0, 1) for a text: the first 8 bytes of the SHA-256 of its UTF-8, as a big-endian number, over 2^64. A row is held out
 * where this is below the share to hold out: on every machine the same rows, and equal texts stay together.
 */
export async function shareOf(text) {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Number(new DataView(digest).getBigUint64(0)) / 2 ** 64;
}

const charactersOf = (text) => [...text].length;

/**
 * The examples of a table: { train, heldOut, names, dropped }, the first two lists of { text, label, length }, where `label` is the
 * number of a class and `names` are those of the classes.
 *
 * `choice` has the columns `text` and `label`, `where` (a text "COLUMN=VALUE", or empty), `holdout` (a share), `limit` and `measure`
 * (how many rows to train on and to measure on at most; 0: all). Fewer rows are chosen by their share too. `known` are the classes
 * of the adapter, where it has some.
 */
export async function examplesOf(table, choice, known) {
  const { name, columns } = table;
  const place = (column) => {
    const found = columns.indexOf(column);
    ensure(found >= 0, () => `${name}: there is no column "${column}"; its columns are ${columns.join(', ')}`);
    return found;
  };
  const [text, label] = [place(choice.text), place(choice.label)];
  const [column, wanted] = split(choice.where);
  const condition = column === undefined ? undefined : place(column);
  const rows = table.records.filter((record) => condition === undefined || record[condition] === wanted);
  ensure(rows.length > 0, `${name}: no row has ${choice.where}; leave the condition out, or give a value that is there`);
  const dropped = { text: 0, label: 0 };
  const usable = [];
  for (const record of rows) {
    const [words, cell] = [record[text] ?? '', record[label] ?? ''];
    if (isBlank(words)) {
      dropped.text += 1;
    } else if (isMissing(cell)) {
      dropped.label += 1;
    } else {
      usable.push({ text: words, value: valueOf(cell), length: charactersOf(words), share: await shareOf(words) });
    }
  }
  ensure(usable.length > 0, () => (
    `${name}: no row can be used: ${dropped.label} have no label and ${dropped.text} have no text; choose the columns of the texts and labels`));
  const { names, numbers } = classesOf(usable.map((row) => row.value), known, name, choice.label);
  const examples = usable.map((row) => ({ ...row, label: numbers.get(row.value) }));
  const train = fewest(examples.filter((row) => row.share >= choice.holdout), choice.limit);
  const heldOut = fewest(examples.filter((row) => row.share < choice.holdout), choice.measure);
  ensure(train.length > 0 && (choice.holdout === 0 || heldOut.length > 0), () => (
    `${name}: of ${usable.length} rows ${train.length} are to train on and ${heldOut.length} held out; give more rows or another share`));
  return { train, heldOut, names, dropped };
}

function split(where) {
  const at = where.indexOf('=');
  ensure(where === '' || at > 0, `the condition "${where}" is no COLUMN=VALUE, such as source=news; write one, or leave it empty`);
  return where === '' ? [] : [where.slice(0, at).trim(), where.slice(at + 1).trim()];
}

/** At most `most` rows (0: all), those of the smallest shares, in the order of the table: files are often sorted by label. */
function fewest(rows, most) {
  if (!most || rows.length <= most) {
    return rows;
  }
  const chosen = new Set([...rows].sort((one, other) => one.share - other.share).slice(0, most));
  return rows.filter((row) => chosen.has(row));
}
