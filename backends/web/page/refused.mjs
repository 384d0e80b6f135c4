// The error for what the page cannot take: one sentence that says what is wrong and how to mend it.

export class Refused extends Error {}

export function ensure(condition, sentence) {
  if (!condition) {
    throw new Refused(typeof sentence === 'function' ? sentence() : sentence);
  }
}
