// Reads an ONNX file's protobuf: its metadata, and a part of its graph. ONNX Runtime gives JavaScript neither.

import { ensure } from './refused.mjs';

// The numbers of fields in onnx.proto.
const MODEL = { graph: 7, metadata: 14 };
const GRAPH = { node: 1, output: 12 };
const NODE = { input: 1, output: 2, name: 3 };
const VALUE = { name: 1 };
const ENTRY = { key: 1, value: 2 };

const BUFFERS = 8; // that a node of WebGPU may have wherever there is a GPU

export class OnnxFile {
  constructor(bytes, name) {
    Object.assign(this, { bytes, name });
  }

  /** The file's metadata, as a Map of texts. */
  metadata() {
    const entries = [...this.fields()].filter(({ number }) => number === MODEL.metadata);
    return new Map(entries.map((entry) => [ENTRY.key, ENTRY.value].map((wanted) => this.texts(entry, wanted)[0] ?? '')));
  }

  /**
   * The names of nodes with more inputs and outputs than a GPU takes: the one that cuts θ_D into A and B of every layer, and its adjoint.
   * To WebGPU each of them is a buffer, and ONNX Runtime 1.30 does not divide them up.
   */
  wideNodes() {
    const wide = (node) => this.texts(node, NODE.input).length + this.texts(node, NODE.output).length > BUFFERS;
    const graphs = [...this.fields()].filter(({ number }) => number === MODEL.graph);
    const nodes = graphs.flatMap((graph) => [...this.fields(graph)].filter(({ number }) => number === GRAPH.node));
    return nodes.filter(wide).flatMap((node) => this.texts(node, NODE.name));
  }

  /**
   * The file whose one output is `output`, without the nodes that it does not need: ONNX Runtime runs all that a file has, whatever a call
   * asks for.
   */
  upTo(output) {
    const pieces = [];
    for (const field of this.fields()) {
      if (field.number === MODEL.graph) {
        const parts = this.needed(field, output);
        const length = parts.reduce((sum, part) => sum + part.length, 0);
        pieces.push(this.bytes.subarray(field.begin, field.begin + 1), varint(length), ...parts);
      } else {
        pieces.push(this.bytes.subarray(field.begin, field.end));
      }
    }
    const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      joined.set(piece, at);
      at += piece.length;
    }
    return new OnnxFile(joined, this.name);
  }

  /** The fields of a graph that `output` needs, as bytes. Nodes come in the order of their runs, so one look from the end finds them. */
  needed(graph, output) {
    const needed = new Set([output]);
    const kept = [...this.fields(graph)].reverse().filter((field) => {
      if (field.number === GRAPH.output) {
        return this.texts(field, VALUE.name)[0] === output;
      }
      if (field.number !== GRAPH.node) {
        return true;
      }
      const isNeeded = this.texts(field, NODE.output).some((each) => needed.has(each));
      if (isNeeded) {
        this.texts(field, NODE.input).forEach((input) => needed.add(input));
      }
      return isNeeded;
    });
    return kept.reverse().map(({ begin, end }) => this.bytes.subarray(begin, end));
  }

  /** The fields of a message, or of the whole file: { number, begin, start, end }, from `begin` to `end`, and their content from `start`. */
  * fields({ start: from, end: to } = { start: 0, end: this.bytes.length }) {
    let at = from;
    const check = (sound) => ensure(sound, `${this.name} is no ONNX file, or a damaged one; give the graph that the exporter wrote`);
    const number = () => {
      let [value, unit] = [0, 1];
      for (;;) {
        check(at < to && unit < 2 ** 63);
        const byte = this.bytes[at];
        at += 1;
        value += (byte & 0x7F) * unit;
        if (byte < 0x80) {
          return value;
        }
        unit *= 128;
      }
    };
    const skipped = { 0: () => number() * 0, 1: () => 8, 2: number, 5: () => 4 }; // bytes after the tag, by the kind of field
    while (at < to) {
      const begin = at;
      const tag = number();
      const length = skipped[tag % 8]?.() ?? NaN;
      const end = at + length;
      check(end <= to);
      yield { number: Math.floor(tag / 8), begin, start: at, end };
      at = end;
    }
  }

  /** The texts of a message that have the number `wanted`. */
  texts(message, wanted) {
    return [...this.fields(message)].filter(({ number }) => number === wanted)
      .map(({ start, end }) => new TextDecoder().decode(this.bytes.subarray(start, end)));
  }
}

function varint(value) {
  const bytes = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) {
    bytes.push(rest % 128 + 128);
  }
  return Uint8Array.from([...bytes, rest]);
}
