// The curve of a training: the loss of each step, smoothed, and the accuracy on held-out rows, as a picture in SVG.

const [WIDTH, HEIGHT] = [640, 260];
const EDGE = { left: 46, right: 46, top: 14, bottom: 30 };
const SMOOTH = 0.85; // of the smoothed loss, what each step keeps
const SVG = 'http://www.w3.org/2000/svg';

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.textContent = text ?? '';
  return made;
}

/** Smoothed values: an average in which earlier steps count less, without the pull of a first value. */
function smoothed(values) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = sum * SMOOTH + value;
    weight = weight * SMOOTH + 1;
    return sum / weight;
  });
}

/**
 * Draws into an <svg>: `losses` are { step, loss }, `measured` are { step, accuracy }, and `steps` is where the picture ends.
 */
export function draw(svg, { losses, measured, steps }) {
  const last = Math.max(steps, 1);
  const most = Math.max(1e-6, ...losses.map(({ loss }) => loss)) * 1.05;
  const across = (step) => EDGE.left + step / last * (WIDTH - EDGE.left - EDGE.right);
  const upTo = (share) => HEIGHT - EDGE.bottom - share * (HEIGHT - EDGE.top - EDGE.bottom);
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  const parts = [];
  for (let k = 0; k <= 4; k += 1) {
    const y = upTo(k / 4);
    parts.push(
      element('line', { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y, y2: y, class: 'grid' }),
      element('text', { x: EDGE.left - 8, y: y + 4, class: 'tick loss', 'text-anchor': 'end' }, losses.length ? (most * k / 4).toFixed(2) : ''),
      element('text', { x: WIDTH - EDGE.right + 8, y: y + 4, class: 'tick accuracy' }, (k / 4).toFixed(2)),
      element('text', { x: across(last * k / 4), y: HEIGHT - 10, class: 'tick', 'text-anchor': 'middle' }, String(Math.round(last * k / 4))),
    );
  }
  const path = (points) => points.map(([x, y], k) => `${k ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
  parts.push(...losses.map(({ step, loss }) => element('circle', { cx: across(step), cy: upTo(loss / most), r: 1.6, class: 'dot loss' })));
  const even = smoothed(losses.map(({ loss }) => loss));
  parts.push(element('path', { d: path(losses.map(({ step }, k) => [across(step), upTo(even[k] / most)])), class: 'line loss' }));
  const points = [...measured].sort((one, other) => one.step - other.step).map(({ step, accuracy }) => [across(step), upTo(accuracy)]);
  parts.push(element('path', { d: path(points), class: 'line accuracy' }));
  parts.push(...points.map(([cx, cy]) => element('circle', { cx, cy, r: 4, class: 'dot accuracy' })));
  svg.replaceChildren(...parts);
  const words = [
    losses.length ? `loss ${even.at(-1).toFixed(3)} after ${losses.at(-1).step} steps` : 'no steps yet',
    ...measured.slice(-1).map(({ accuracy, step }) => `accuracy ${accuracy.toFixed(3)} after ${step} steps`),
  ];
  svg.setAttribute('aria-label', `The training: ${words.join(', ')}`);
}
