// Runs a GGUF file in llama.cpp, by package node-llama-cpp, with and without a LoRA: for each of `adapters` of the request (null: none)
// the tokens of highest logit after `tokens`, `count` of them, the logits that each was chosen by, and in ms how long it took to make the
// context, which loads the LoRA, and a token where nobody asks for logits. Then, for `copies` of a LoRA, what a context with one more costs
// and what one without, each beside those before: the median of ms, and of bytes of the process.
// Called with the files of a request and of the answer, from a folder with node_modules: llama.py makes both.

import {readFileSync, writeFileSync} from "node:fs";
import {getLlama} from "node-llama-cpp";

const {model: modelPath, adapters, tokens, count, top, exact, copies} = JSON.parse(readFileSync(process.argv[2], "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 2});
const model = await llama.loadModel({modelPath});
const started = () => performance.now();
// By default attention is computed in float16, whatever the weights are.
const attention = exact ? {flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"} : {};
const results = [];

for (const adapter of adapters) {
    let begin = started(), made = 0;
    const lora = adapter ? {lora: {adapters: [{filePath: adapter}]}} : {};
    const context = await model.createContext({contextSize: 128, ...attention, ...lora});
    const result = {load: started() - begin, tokens: [], logits: []};
    const sequence = context.getSequence();
    let next = tokens;
    while (result.tokens.length < count) {
        const wanted = {generateNext: {token: true, logits: {filter: {tokens: [], includeTop: top}}, options: {temperature: 0}}};
        const answers = await sequence.controlledEvaluate([...next.slice(0, -1), [next.at(-1), wanted]]);
        const {token, logits} = answers.at(-1).next;
        result.logits.push([...logits]);
        result.tokens.push(token);
        next = [token];
    }
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(tokens, {temperature: 0})) {
        if (made === 0) begin = started();  // the first has the whole prompt to read
        if (++made === count) break;
    }
    result.step = (started() - begin) / (made - 1);
    results.push(result);
    await context.dispose();
}

const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];
async function more(options) {
    const found = {ms: [], bytes: []};
    for (const each of options) {
        const before = process.memoryUsage.rss(), begin = started();
        const context = await model.createContext({contextSize: 128, ...each});
        found.ms.push(started() - begin);
        for await (const _ of context.getSequence().evaluate(tokens, {temperature: 0})) break;  // touches its memory
        found.bytes.push(process.memoryUsage.rss() - before);
    }
    return {ms: median(found.ms), bytes: median(found.bytes)};
}
const costs = [await more(copies.map(() => ({}))), await more(copies.map((filePath) => ({lora: {adapters: [{filePath}]}})))];
writeFileSync(process.argv[3], JSON.stringify({llama: llama.llamaCppRelease.release, results, costs}));
await llama.dispose();
