// Drives the page in a browser without a window, for test_page.py: node drive.mjs '{"url": …, "scenario": …}' prints one line of JSON.

import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const call = JSON.parse(process.argv[2]);
const { chromium } = createRequire(`${call.packages}/`)('playwright-core');
const FLAGS = ['--no-sandbox']; // the container of a test has no other user to be

const browser = await chromium.launch({ executablePath: call.browser, headless: true, args: [...FLAGS, ...(call.flags ?? [])] });
const page = await browser.newPage({ viewport: { width: 1180, height: 900 }, acceptDownloads: true });
const said = [];
page.on('console', (message) => said.push(`${message.type()}: ${message.text()}`));
page.on('pageerror', (error) => said.push(`error: ${error.message}`));
const told = (id) => page.locator(`#${id}`).textContent();
const until = (id, words, timeout = 240_000) => page.waitForFunction(
  ([where, what]) => document.getElementById(where).textContent.includes(what), [id, words], { timeout });

const result = { said };
const t0 = Date.now();
await page.goto(call.url);
await until('examples-told', 'held out');
result.loaded = (Date.now() - t0) / 1000;
result.graph = await told('graph-told'); result.examples = await told('examples-told');
if (call.fields) for (const [id, v] of Object.entries(call.fields)) await page.evaluate(([i, x]) => { document.getElementById(i).value = x; }, [id, v]);
await page.click('#choose'); await new Promise(r=>setTimeout(r,1500)); result.examples2 = await told('examples-told');
const t1 = Date.now();
setInterval(async()=>{ try { console.log((Date.now()-t1)/1000, await told('train-told'), await told('problem')); } catch {} }, 5000).unref();
await page.click('#train');
await until('train-told', 'step 1 of'); result.first = (Date.now() - t1) / 1000;
await until('train-told', `after ${call.fields?.steps ?? 75} steps`, 600_000); result.trained = (Date.now() - t1) / 1000;
result.train = await told('train-told');
await page.screenshot({ path: '/tmp/web/shot.png', fullPage: true });
console.log(JSON.stringify(result, null, 1));
await browser.close();
