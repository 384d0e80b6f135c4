// Calls of the worker, from the page's side.

/**
 * Starts the worker, and gives a function that calls it: ask(call, ...values) is a promise of the answer. `events` are functions by the
 * names of the worker's events, and `problem` shows a sentence.
 */
export function client(events, problem) {
  const worker = new Worker(new URL('worker.mjs', import.meta.url), { type: 'module' });
  const waiting = new Map();
  let calls = 0;
  worker.onmessage = ({ data }) => {
    if (data.event) {
      events[data.event](data);
      return;
    }
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.sentence === undefined) {
      resolve(data.answer);
    } else {
      reject(new Error(data.sentence));
    }
  };
  worker.onerror = () => problem('the page could not start its worker; run make web, which fetches the packages, and load the page again');
  return (call, ...values) => {
    calls += 1;
    worker.postMessage({ id: calls, call, values });
    return new Promise((resolve, reject) => { waiting.set(calls, { resolve, reject }); });
  };
}
