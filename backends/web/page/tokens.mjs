// Makes the inputs of a model from texts.

import { ensure } from './refused.mjs';

const INPUTS = ['input_ids', 'attention_mask', 'token_type_ids'];

/** The tokens of a base, by its tokenizer.json. `Tokenizer` is the class of @huggingface/tokenizers. */
export class Tokens {
  constructor(Tokenizer, model, configuration) {
    // Truncation and padding in the file are ignored, as in transformers: each call decides them.
    this.tokenizer = new Tokenizer({ ...model, truncation: null, padding: null }, configuration);
    const pad = configuration.pad_token?.content ?? configuration.pad_token;
    this.pad = (pad && this.tokenizer.token_to_id(pad)) ?? model.padding?.pad_id ?? 0;
    this.encoded = new Map();
  }

  /** The tokens' numbers. A text that is too long loses its end, and keeps the tokens that stand around every text. */
  encode(text, most) {
    const key = `${most} ${text}`;
    if (!this.encoded.has(key)) {
      this.encoded.set(key, this.cut(text, most));
    }
    return this.encoded.get(key);
  }

  cut(text, most) {
    const { ids } = this.tokenizer.encode(text);
    if (ids.length <= most) {
      return ids;
    }
    const plain = this.tokenizer.encode(text, { add_special_tokens: false }).ids;
    const around = ids.length - plain.length;
    ensure(around < most, `a text of ${most} tokens has no room for the ${around} around it; give a longer longest row`);
    let before = 0;
    while (before < around && plain.some((id, k) => id !== ids[before + k])) {
      before += 1;
    }
    return [...ids.slice(0, before), ...plain.slice(0, most - around), ...ids.slice(before + plain.length)];
  }

  /** The inputs `names` of a batch of texts, filled up to the longest: by name { data: BigInt64Array, dims }. */
  batch(texts, names, most) {
    const strange = names.find((name) => !INPUTS.includes(name));
    ensure(strange === undefined, `the graph has the input "${strange}", and texts give ${INPUTS.join(', ')}; take a graph of a text model`);
    const rows = texts.map((text) => this.encode(text, most));
    const width = Math.max(...rows.map((row) => row.length));
    const fill = {
      input_ids: (row) => [...row, ...new Array(width - row.length).fill(this.pad)],
      attention_mask: (row) => Array.from({ length: width }, (_, k) => (k < row.length ? 1 : 0)),
      token_type_ids: () => new Array(width).fill(0),
    };
    return Object.fromEntries(names.map((name) => [name, {
      data: BigInt64Array.from(rows.flatMap(fill[name]), BigInt),
      dims: [rows.length, width],
    }]));
  }
}
