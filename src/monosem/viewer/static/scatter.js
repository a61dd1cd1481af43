// The scatter of latents: a canvas for up to twenty thousand points, with a pointer and arrow keys to pick one.

import {h} from "./dom.js";
import {percent, powerOfTen, short, within} from "./numbers.js";
import {hideReading, showReading} from "./reading.js";
import {toLatent} from "./route.js";
import {proseNode} from "./text.js";

/** What can stand on an axis; `log`: its decades are as wide as each other. */
export const AXES = {
  density: {label: "Density", meaning: "share of tokens it fires on", log: true, told: percent},
  mean: {label: "Mean activation", meaning: "over the tokens it fires on", log: true, told: short},
  largest: {label: "Largest activation", meaning: "on any token", log: true, told: short},
  encoder_cosine: {label: "Encoder cosine", meaning: "of its encoder row and decoder row", log: false, told: short},
  nearest_cosine: {
    label: "Nearest cosine",
    meaning: "of its decoder row and the nearest other",
    log: false,
    told: short,
  },
  top_token_share: {
    label: "Top-token share",
    meaning: "of its activation that falls on one token",
    log: false,
    told: percent,
  },
};

const MARGIN = {left: 46, right: 12, top: 10, bottom: 26};
const REACH = 14;

/** Round values of an axis with their texts: powers of ten, or 1, 2 and 5 of each where there are few of these. */
function ticks(low, high, isLog) {
  const found = [];
  if (isLog) {
    const digits = high - low > 1.2 ? [1] : [1, 2, 5];
    for (let decade = Math.floor(low); decade <= high; decade += 1) {
      for (const digit of digits)
        found.push([digit * 10 ** decade, digits.length > 1 ? short(digit * 10 ** decade, 1) : powerOfTen(decade)]);
    }
    return found.filter(([value]) => Math.log10(value) >= low && Math.log10(value) <= high);
  }
  const step =
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].find(each => (high - low) / each <= 6) ?? (high - low) / 4;
  for (let at = Math.ceil(low / step); at * step <= high; at += 1)
    found.push([at * step, String(Number((at * step).toPrecision(3)))]);
  return found;
}

/** From a column's values to pixels; what a logarithm has no place for is left out. */
function scale(values, isLog, from, to) {
  const has = value => value !== null && (!isLog || value > 0);
  const place = value => (isLog ? Math.log10(value) : value);
  const [least, most] = values.reduce(
    ([a, b], value) => (has(value) ? [Math.min(a, place(value)), Math.max(b, place(value))] : [a, b]),
    [Infinity, -Infinity],
  );
  const pad = (most - least) * 0.03 || 0.5;
  const [low, high] = [least - pad, most + pad];
  const at = value => from + ((place(value) - low) / (high - low)) * (to - from);
  return {at, has, ticks: least > most ? [] : ticks(low, high, isLog)};
}

/** Points in the canvas' pixels, and the nearest of them within the pointer's reach. */
function layOut(data, {x, y}, width, height) {
  const across = scale(data[x], AXES[x].log, MARGIN.left, width - MARGIN.right);
  const up = scale(data[y], AXES[y].log, height - MARGIN.bottom, MARGIN.top);
  const all = data.latent.map((latent, i) => ({i, latent, px: across.at(data[x][i]), py: up.at(data[y][i])}));
  const points = all.filter(({i}) => across.has(data[x][i]) && up.has(data[y][i]));
  const near = (px, py) => {
    let [nearest, least] = [null, REACH ** 2];
    for (const point of points) {
      const distance = (point.px - px) ** 2 + (point.py - py) ** 2;
      if (distance < least) [nearest, least] = [point, distance];
    }
    return nearest;
  };
  return {across, up, points, near, width, height};
}

function paintGrid(pen, {across, up, width, height}) {
  const draw = (x1, y1, x2, y2) => {
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
    pen.stroke();
  };
  pen.textAlign = "center";
  for (const [value, text] of across.ticks) {
    const x = Math.round(across.at(value)) + 0.5;
    draw(x, MARGIN.top, x, height - MARGIN.bottom);
    pen.fillText(text, x, height - 9);
  }
  pen.textAlign = "right";
  for (const [value, text] of up.ticks) {
    const y = Math.round(up.at(value)) + 0.5;
    draw(MARGIN.left, y, width - MARGIN.right, y);
    pen.fillText(text, MARGIN.left - 6, y + 4);
  }
}

function paint(canvas, layout, picked) {
  const {width, height, points} = layout;
  const ratio = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const style = getComputedStyle(canvas);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = `11px ${style.fontFamily}`;
  pen.strokeStyle = style.borderTopColor;
  pen.fillStyle = style.textDecorationColor;
  paintGrid(pen, layout);
  // Many points are small and faint, so that where they lie densely can be seen.
  const size = points.length > 5000 ? 1.6 : points.length > 500 ? 2.2 : 3;
  pen.globalAlpha = points.length > 5000 ? 0.4 : 0.6;
  pen.fillStyle = style.color;
  for (const {px, py} of points) pen.fillRect(px - size / 2, py - size / 2, size, size);
  pen.globalAlpha = 1;
  if (!picked) return;
  pen.strokeStyle = style.caretColor;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(picked.px, picked.py, 6, 0, 2 * Math.PI);
  pen.stroke();
}

/** The next point along an arrow's axis. */
function neighbour(points, picked, key) {
  const axis = key === "ArrowLeft" || key === "ArrowRight" ? "px" : "py";
  const step = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
  const sorted = points.toSorted((a, b) => a[axis] - b[axis] || a.i - b.i);
  const place = picked ? sorted.findIndex(({i}) => i === picked.i) + step : 0;
  return sorted[within(place, 0, sorted.length - 1)] ?? null;
}

/** Lets pointer and keys pick among the points of `now()`, and open what is picked. */
function listen(canvas, now, pick) {
  const under = ({offsetX, offsetY}) => now().layout?.near(offsetX, offsetY) ?? null;
  const open = point => point && (location.hash = toLatent(point.latent));
  canvas.addEventListener("pointermove", event => pick(under(event), false));
  for (const left of ["pointerleave", "blur"]) canvas.addEventListener(left, () => pick(null, false));
  canvas.addEventListener("click", event => open(under(event)));
  canvas.addEventListener("keydown", event => {
    const {layout, picked} = now();
    if (event.key.startsWith("Arrow") && layout) pick(neighbour(layout.points, picked, event.key), true);
    else if (event.key === "Enter") open(picked);
    else return;
    event.preventDefault();
  });
}

const ROLE = {
  tabindex: 0,
  role: "application",
  "aria-roledescription": "scatter plot",
  "aria-label": "Latents by two measures. Arrow keys go from point to point, Enter opens the latent.",
};

/** The plot of two columns: its canvas, and `draw({ x, y })` for other ones. `name(latent)` gives a latent's label. */
export function scatterPlot(data, name, announce) {
  const canvas = h("canvas.scatter", ROLE);
  let [axes, layout, picked] = [{x: "density", y: "largest"}, null, null];
  const repaint = () => layout && paint(canvas, layout, picked);
  const draw = chosen => {
    axes = chosen;
    if (canvas.clientWidth === 0) return;
    layout = layOut(data, axes, canvas.clientWidth, canvas.clientHeight);
    picked = picked && (layout.points.find(({i}) => i === picked.i) ?? null);
    repaint();
  };
  const values = ({i}) =>
    [axes.x, axes.y].map(axis => `${AXES[axis].label.toLowerCase()} ${AXES[axis].told(data[axis][i])}`).join(", ");
  const pick = (point, isAloud) => {
    if (point === picked) return;
    picked = point;
    repaint();
    if (!point) return hideReading();
    const box = canvas.getBoundingClientRect();
    const [left, middle] = [box.left + point.px, box.top + point.py];
    // Beyond the pointer's reach, else it would stand between the pointer and the point.
    const place = {left, width: 0, top: middle - REACH, bottom: middle + REACH};
    const tell = label => showReading(place, h("b", `Latent ${point.latent}`), label, h("span", values(point)));
    tell(null);
    if (isAloud) announce(`Latent ${point.latent}, ${values(point)}`);
    name(point.latent).then(
      label => picked === point && canvas.isConnected && tell(proseNode(label)),
      () => {},
    );
  };
  listen(canvas, () => ({layout, picked}), pick);
  new ResizeObserver(() => draw(axes)).observe(canvas);
  const recolour = () => (canvas.isConnected ? repaint() : removeEventListener("themechange", recolour));
  addEventListener("themechange", recolour);
  return {canvas, draw};
}
