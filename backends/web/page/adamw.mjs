// The optimizer: AdamW (Loshchilov and Hutter 2019) with the rounding of torch.optim.AdamW, its gradients clipped by their norm, and the
// learning rates of a training: a linear rise and a linear fall. All of it works on the few thousand trained numbers.

const BETAS = [0.9, 0.999];
const EPSILON = 1e-8;
const { fround, sqrt } = Math;

/** The state before the first step, for parameters given as a Map of Float32Arrays by name. */
export function initialState(parameters) {
  const zeros = () => new Map([...parameters].map(([name, values]) => [name, new Float32Array(values.length)]));
  return { step: 0, first: zeros(), second: zeros() };
}

/**
 * One step. `parameters` and `state` are changed in place; `gradients` is a Map like `parameters`, `rates` and `decays` give the
 * learning rate and the weight decay of each by its name. Each operation is rounded to float32, in torch's order.
 */
export function adamw(parameters, state, gradients, rates, decays) {
  state.step += 1;
  const [beta1, beta2] = BETAS;
  const [share1, keep2, share2] = [fround(1 - beta1), fround(beta2), fround(1 - beta2)];
  const root = fround(sqrt(1 - beta2 ** state.step));
  for (const [name, values] of parameters) {
    const [g, m, v] = [gradients.get(name), state.first.get(name), state.second.get(name)];
    const rate = fround(-rates.get(name) / (1 - beta1 ** state.step));
    const kept = fround(1 - rates.get(name) * decays.get(name));
    for (let j = 0; j < values.length; j += 1) {
      m[j] += fround(share1 * fround(g[j] - m[j]));
      v[j] = fround(v[j] * keep2) + fround(fround(share2 * g[j]) * g[j]);
      const denominator = fround(fround(fround(sqrt(v[j])) / root) + fround(EPSILON));
      values[j] = fround(values[j] * kept) + fround(fround(rate * m[j]) / denominator);
    }
  }
}

/** Scales all gradients in place so that their common norm is at most `most` (0: never), as torch's clip_grad_norm_; gives the norm. */
export function clip(gradients, most) {
  let sum = 0;
  for (const values of gradients.values()) {
    sum += values.reduce((squares, value) => squares + value * value, 0);
  }
  const norm = sqrt(sum);
  if (most > 0) {
    const factor = Math.min(1, most / (norm + 1e-6));
    for (const values of gradients.values()) {
      values.forEach((value, j) => {
        values[j] = value * factor;
      });
    }
  }
  return norm;
}

/** The factor of the learning rates in step `step`, from 0, of `total`; they rise in a share of the steps: transformers' "linear". */
export function factorOf(step, total, share) {
  const rise = Math.ceil(total * share);
  return step < rise ? step / Math.max(1, rise) : Math.max(0, (total - step) / Math.max(1, total - rise));
}
