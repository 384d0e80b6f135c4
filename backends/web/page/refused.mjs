// What the page cannot take, as one sentence that says what is wrong and how it is mended.

export class Refused extends Error {}

export function ensure(condition, sentence) {
  if (!condition) {
    throw new Refused(typeof sentence === 'function' ? sentence() : sentence);
  }
}
