// Drives the page in a browser without a window, for test_page.py: node drive.mjs '{"scenario": "training", …}' prints one object of JSON.
//
// `url` is the page's, `browser` the browser's program with its own `flags`, `packages` the folder of npm's packages; the scenarios say what
// else they take.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const call = JSON.parse(process.argv[2]);
const { chromium } = createRequire(`${call.packages}/`)('playwright-core');
const WAIT = (call.wait ?? 900) * 1000; // a busy machine takes ten seconds a step
const SENTENCES = 'a warm , funny and deeply moving film that stays with you .\ntwo hours of my life that i will never get back .';

// In a container there is no other user for the browser's sandbox to be.
const browser = await chromium.launch({ executablePath: call.browser, headless: true, args: ['--no-sandbox', ...call.flags ?? []] });
const context = await browser.newContext({ viewport: { width: 1120, height: 900 }, acceptDownloads: true });
context.setDefaultTimeout(WAIT);
const page = await context.newPage();
const errors = [];
const elsewhere = [];
page.on('pageerror', (error) => errors.push(error.message));
page.on('request', (request) => {
  if (!request.url().startsWith(call.url) && !/^(blob|data):/.test(request.url())) {
    elsewhere.push(request.url());
  }
});

const told = (id) => page.locator(`#${id}`).textContent();
const until = (id, words) => page.waitForFunction(([where, what]) => document.getElementById(where).textContent.includes(what), [id, words]);
const fill = async (fields) => {
  await page.locator('details').evaluateAll((all) => all.forEach((each) => { each.open = true; }));
  for (const [id, value] of Object.entries(fields)) {
    await page.locator(`#${id}`).fill(String(value));
  }
};
const accuracy = async () => Number(/accuracy ([0-9.]+)/.exec(await told('train-told'))[1]);

async function saved(button) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.click(button)]);
  return { name: file.suggestedFilename(), bytes: readFileSync(await file.path()).toString('base64') };
}

async function opened(path = '') {
  const began = Date.now();
  await page.goto(call.url + path);
  await until('examples-told', 'held out');
  return (Date.now() - began) / 1000;
}

const problem = async (action) => {
  await action();
  await page.waitForFunction(() => !document.getElementById('problem').hidden);
  return told('problem');
};

const SCENARIOS = {
  /** Trains with the values `fields` of fields, stops after ten steps or so and goes on, tries two adapters, and saves the first. */
  async training() {
    const found = { loaded: await opened(), graph: await told('graph-told') };
    await fill({ ...call.fields, sentences: SENTENCES });
    await page.click('#choose');
    await until('examples-told', `${call.fields.limit.toLocaleString('en')} to train on`);
    found.examples = await told('examples-told');
    const began = Date.now();
    await page.click('#train');
    await until('adapters', '1 step');
    found.firstStep = (Date.now() - began) / 1000;
    await until('train-told', 'after 0 steps');
    found.before = await accuracy();
    found.frames = await page.evaluate(() => new Promise((resolve) => { // of the page, while the worker is busy
      let frames = 0;
      const count = () => { frames += 1; requestAnimationFrame(count); };
      count();
      setTimeout(() => resolve(frames), 2000);
    }));
    await until('adapters', '5 steps');
    const fifth = Date.now();
    await until('adapters', '10 steps');
    found.secondsOfAStep = (Date.now() - fifth) / 5000;
    await page.click('#stop');
    await until('train-told', 'Stopped after');
    found.stopped = await told('train-told');
    found.state = await saved('#save-state');
    await page.click('#train');
    await until('train-told', `after ${call.fields.steps} steps`);
    found.trained = (Date.now() - began) / 1000;
    found.after = await accuracy();
    found.curve = await page.locator('#curve').getAttribute('aria-label');
    const answers = async () => {
      await page.locator('#answers tbody').evaluate((body) => body.replaceChildren());
      await page.click('#predict');
      await until('answers', SENTENCES.split('\n')[1]);
      return page.locator('#answers tr').evaluateAll((rows) => rows.map((row) => [row.cells[0].textContent, Number(row.cells[1].textContent)]));
    };
    found.says = await answers();
    await page.click('#fresh');
    await until('adapters', 'anew');
    found.saysAnew = await answers();
    await page.locator('#adapters input').first().check();
    await page.waitForFunction(() => document.querySelector('#adapters input').checked);
    await fill({ name: 'reviews' });
    await page.locator('#name').press('Enter');
    await until('adapters', 'reviews');
    found.saysAgain = await answers();
    await page.locator('details').evaluateAll((all) => all.forEach((each) => { each.open = false; }));
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: call.picture, fullPage: true });
    found.file = await saved('#save');
    return found;
  },

  /** A few steps with the values `fields` on each device, each of an adapter of its own, which is saved. */
  async devices() {
    await opened();
    await fill(call.fields);
    await page.click('#choose');
    await until('examples-told', `${call.fields.limit} to train on`);
    const found = {};
    for (const device of ['wasm', 'webgpu']) {
      await page.selectOption('#device', device);
      await page.waitForFunction(() => document.getElementById('graph-told').textContent !== 'Opening …');
      found[`${device}Told`] = await told('graph-told');
      await page.click('#fresh');
      await page.click('#train');
      await until('adapters', `${call.fields.steps} steps`);
      await page.waitForFunction(() => !document.getElementById('train').disabled);
      found[device] = await saved('#save');
      await page.click('#remove');
    }
    return found;
  },

  /** Opens files that are not what they should be, and asks for what is not there; then a page whose server sends no headers. */
  async refusals() {
    await opened();
    const found = { before: await told('graph-told') };
    found.noGraph = await problem(() => page.locator('#graph-files').setInputFiles(call.files.table));
    found.notStep = await problem(() => page.locator('#graph-files').setInputFiles([call.files.merged, call.files.adapter]));
    found.otherAdapter = await problem(() => page.locator('#adapter-file').setInputFiles(call.files.other));
    found.noLabels = await problem(() => page.locator('#table-file').setInputFiles(call.files.table));
    found.after = await told('graph-told');
    found.adapters = await page.locator('#adapters label').count();
    await page.locator('#typed').evaluate((field) => { field.closest('details').open = true; });
    await fill({ typed: 'text,label\nfine,good\nawful,bad\n"dull, long",bad\nlovely,good', holdout: 0 });
    found.otherClasses = await problem(() => page.click('#take-typed'));
    await page.route(({ pathname }) => pathname.endsWith('/page/'), async (route) => {
      const response = await route.fetch();
      const headers = Object.entries(response.headers()).filter(([name]) => !name.startsWith('cross-origin'));
      await route.fulfill({ response, headers: Object.fromEntries(headers) });
    });
    await opened('backends/web/page/'); // a redirection would not be seen by the route
    found.notice = await told('notice');
    found.oneThread = await told('graph-told');
    return found;
  },
};

const answer = await SCENARIOS[call.scenario]();
console.log(JSON.stringify({ ...answer, errors, elsewhere }));
await browser.close();
