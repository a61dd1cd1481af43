// Drawings in SVG and bars in boxes. Colours come from the style sheet; sizes from the data.

import {h, svg} from "./dom.js";
import {count, powerOfTen, short, within} from "./numbers.js";
import {toSearch} from "./route.js";

/** A bar whose length is a share of its room; `kind` names its colour. */
export const bar = (share, kind = "") =>
  h(`span.rod${kind && `.${kind}`}`, {"aria-hidden": "true", vars: {share: within(share || 0, 0, 1)}});

export function barList(rows, caption) {
  const items = rows.map(({name, value, share, kind, title = null}) =>
    h("li", {title}, h("span.bar-name", name), bar(share, kind), h("span.number", value)),
  );
  return h("ol.bars", {"aria-label": caption}, items);
}

const label = (x, y, text, anchor = "middle") => svg("text", {x, y, "text-anchor": anchor}, text);
const line = (x1, y1, x2, y2, kind = "line") => svg(kind, {x1, y1, x2, y2});

/**
 * Columns of counts side by side, each with a title and a place for the pointer as high as the plot. What is there is
 * seen: a column has at least a pixel.
 */
function columns(counts, {left, width, bottom, height, most}, title) {
  const step = width / counts.length;
  return counts.map((value, i) => {
    const tall = value === 0 ? 0 : Math.max(1, (value / most) * height);
    const across = {x: left + i * step + 0.5, width: Math.max(1, step - 1)};
    const shown = svg("rect.column", {...across, y: bottom - tall, height: tall});
    const hit = svg("rect.hit", {...across, y: bottom - height, height});
    return {value, tall, middle: across.x + across.width / 2, node: svg("g", shown, hit, svg("title", title(i)))};
  });
}

/** The dead stand apart on the left, for no logarithm has a place for them. */
function deadColumn(dead, {bottom, height, most}) {
  const tall = Math.max(1, (dead / most) * height);
  const column = svg("rect.column.dead", {x: 10, width: 24, y: bottom - tall, height: tall});
  return [
    svg("g", column, svg("title", `${count(dead)} latents never fired`)),
    label(22, bottom + 16, "dead"),
    label(22, bottom - tall - 5, count(dead)),
  ];
}

/** How many latents fire on which share of the tokens; `edges` are log10 of it. A column leads to its latents. */
export function densityPlot({edges, counts, dead}) {
  // Drawn at about the size that it is shown in, so that its letters are those of the text around.
  const [width, height] = innerWidth < 740 ? [350, 170] : [560, 300];
  const left = dead > 0 ? 50 : 6;
  const area = {left, width: width - left - 6, bottom: height + 22, height, most: Math.max(1, dead, ...counts)};
  const {bottom} = area;
  const x = value => left + ((value - edges[0]) / (edges.at(-1) - edges[0])) * area.width;
  const range = i => [10 ** edges[i], Math.min(1, 10 ** edges[i + 1])];
  const title = i =>
    `${count(counts[i])} latents fire on ${range(i)
      .map(share => short(share * 100, 2))
      .join(" to ")}% of tokens`;
  const drawn = columns(counts, area, title).map(({value, tall, middle, node}, i) => {
    if (value === 0) return node;
    const [low, high] = range(i).map(share => share.toPrecision(3));
    // By keyboard the same latents are found by the search's range of densities.
    const link = svg("a", {href: toSearch({low, high, order: "density"}), tabindex: -1}, node);
    return [link, area.width / counts.length > 24 && label(middle, bottom - tall - 5, count(value))];
  });
  const ticks = [];
  for (let at = Math.ceil(edges[0]); at <= Math.min(0, edges.at(-1)); at += 1)
    ticks.push(line(x(at), bottom, x(at), bottom + 4), label(x(at), bottom + 16, powerOfTen(at)));
  const axis = line(left, bottom + 0.5, left + area.width, bottom + 0.5);
  // Its caption says all of it.
  return svg(
    "svg.plot",
    {viewBox: `0 0 ${width} ${bottom + 20}`, "aria-hidden": "true"},
    axis,
    ticks,
    drawn,
    dead > 0 && deadColumn(dead, area),
  );
}

/** Positive activations in bins from 0 to the largest, with the quantiles' places below; the chosen band is marked. */
export function activationPlot({histogram, quantiles, largest}, bands, chosen) {
  const area = {left: 1, width: 318, bottom: 92, height: 84, most: Math.max(1, ...histogram)};
  const {bottom} = area;
  const x = value => area.left + (value / largest) * area.width;
  const edge = i => short((largest * i) / histogram.length);
  const drawn = columns(histogram, area, i => `${edge(i)} to ${edge(i + 1)}: ${count(histogram[i])} tokens`);
  const isChosen = i => chosen >= 0 && (i === chosen || i === chosen + 1);
  const marks = quantiles.map((value, i) =>
    line(x(value), bottom + 1, x(value), bottom + 8, isChosen(i) ? "line.is" : "line"),
  );
  const [from, to] = [quantiles[chosen], quantiles[chosen + 1]].map(value => value !== undefined && x(value));
  const shade =
    chosen >= 0 &&
    to !== false &&
    svg("rect.chosen", {x: from, y: 4, width: Math.max(1, to - from), height: bottom - 4});
  const total = histogram.reduce((sum, each) => sum + each, 0);
  const places = quantiles.map((value, i) => `${bands[i] * 100}% ${short(value)}`).join(", ");
  const told = `Histogram of ${count(total)} positive activations, from 0 to ${short(largest)}. Quantiles: ${places}.`;
  const axis = line(area.left, bottom + 0.5, area.left + area.width, bottom + 0.5);
  const ends = [
    label(area.left, bottom + 22, "0", "start"),
    label(area.left + area.width, bottom + 22, short(largest), "end"),
  ];
  return svg(
    "svg.plot",
    {viewBox: "0 0 320 118", role: "img", "aria-label": told},
    shade,
    axis,
    drawn.map(({node}) => node),
    marks,
    ends,
  );
}
