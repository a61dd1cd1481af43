// Contexts: a block's tokens in running text, shaded by a latent's activation, whose exact value is read on each; with
// tabs for the strongest and for each band of activations, and the marks of the latent's patterns.

import {fill, h} from "./dom.js";
import {count, exact, percent, short} from "./numbers.js";
import {nothing, rove, toggle} from "./parts.js";
import {FALSE_ALARM, HIT, judged, MISS} from "./patterns.js";
import {bar} from "./plots.js";
import {withReading} from "./reading.js";
import {prose, tokenNodes, visible} from "./text.js";

const BEFORE = 26;
const AFTER = 14;

/** How strongly a token is shaded: 0 … 1, faint activations still to be seen. */
export const shade = (value, largest) => (value > 0 && largest > 0 ? 0.1 + 0.9 * Math.min(1, value / largest) : 0);

/** What is told of a token: itself, its activation, its share of the largest, and what patterns say. */
function reading(text, value, largest, judgement) {
  const parts = [h("b", h("bdi", visible(text)))];
  if (value > 0) parts.push(h("span", exact(value)), h("span", `${percent(value / largest)} of its largest`));
  else parts.push(h("span", "not active"));
  if (judgement) parts.push(h("span", judgement.verdict), judgement.pattern && h("bdi", prose(judgement.pattern.text)));
  return parts;
}

function tokenSpan(text, position, {values, largest, verdicts, peak, lines}) {
  const value = values.get(position) ?? 0;
  const judgement = verdicts?.get(position);
  const content = tokenNodes(text, lines);
  if (value === 0 && !judgement) return h("span.t", content);
  const kind = judgement ? ` ${judgement.verdict.replace(" ", "-")}` : "";
  const tag = judgement?.verdict === FALSE_ALARM ? "span" : "mark";
  const attributes = {
    class: `t${kind}${position === peak ? " peak" : ""}`,
    tabindex: position === peak ? 0 : -1,
    vars: {a: shade(value, largest)},
  };
  return withReading(h(tag, attributes, content), () => reading(text, value, largest, judgement));
}

/** The part around the peak that is shown at first, from one position up to another. */
function shownPart({position, ids}, whole) {
  const length = ids.length;
  if (whole || length <= BEFORE + AFTER + 8) return [0, length];
  const from = Math.max(0, Math.min(position - BEFORE, length - BEFORE - AFTER));
  return [from, Math.min(length, from + BEFORE + AFTER)];
}

/**
 * An example of a latent as a list item. `options`: `largest` of the latent; `lines`: whitespace as it is written;
 * `whole`: the whole block; `judge(example)`: position → verdict, or null.
 */
function contextItem(example, options) {
  const verdicts = options.judge?.(example) ?? null;
  const settings = {
    values: new Map(example.activations),
    largest: options.largest,
    verdicts,
    peak: example.position,
    lines: options.lines,
  };
  const text = h("p", {class: options.lines ? "context lines" : "context"});
  const draw = whole => {
    const [from, to] = shownPart(example, whole);
    const open = () => {
      draw(true);
      text.querySelector("[data-reading]")?.focus({preventScroll: true});
    };
    const more = (tokens, where) =>
      tokens > 0 && h("button.more", {onclick: open, "aria-label": `Show ${tokens} tokens ${where}`}, "⋯");
    const tokens = example.texts.slice(from, to).map((each, i) => tokenSpan(each, from + i, settings));
    text.replaceChildren(...[more(from, "before"), ...tokens, more(example.ids.length - to, "after")].filter(Boolean));
    if (!text.querySelector("[tabindex='0']")) text.querySelector("[data-reading]")?.setAttribute("tabindex", "0");
  };
  draw(options.whole);
  rove(text, "[data-reading]");
  const place = `${prose(example.document, 80)}, token ${count(example.start)}`;
  return h(
    "li.example",
    h(
      "p.strength",
      h("span.number", {title: exact(example.value)}, short(example.value)),
      bar(example.value / options.largest),
    ),
    h("div", text, h("p.source", h("bdi", place))),
  );
}

/** The band of the strongest contexts; others count from the weakest. */
export const TOP = -1;

function bandTabs({quantiles}, bands, change) {
  const tab = (band, name, range) =>
    h(
      "button",
      {
        role: "tab",
        id: `tab-${band}`,
        "data-band": band,
        "aria-controls": "contexts",
        onclick: () => change({band}),
      },
      name,
      h("span.range", range),
    );
  const tabs = [tab(TOP, "Strongest", `up to ${short(quantiles.at(-1), 2)}`)];
  for (let band = bands.length - 2; band >= 0; band -= 1) {
    const range = `${short(quantiles[band], 2)} to ${short(quantiles[band + 1], 2)}`;
    tabs.push(tab(band, `${bands[band] * 100}–${bands[band + 1] * 100}%`, range));
  }
  const list = h(
    "div",
    {role: "tablist", class: "tabs", "aria-label": "Contexts by the strength of the activation"},
    tabs,
  );
  rove(list, "[role=tab]", target => target.click());
  return {list, tabs};
}

const MEANINGS = {
  [HIT]: "predicted and active",
  [MISS]: "active, not predicted",
  [FALSE_ALARM]: "predicted, not active",
};

/** What the marks mean, and how many of each are to be seen. */
function legend(examples, judge, whole) {
  const counts = {[HIT]: 0, [MISS]: 0, [FALSE_ALARM]: 0};
  for (const example of examples) {
    const [from, to] = shownPart(example, whole);
    for (const [position, {verdict}] of judge(example)) if (position >= from && position < to) counts[verdict] += 1;
  }
  const items = Object.entries(counts).map(([verdict, number]) =>
    h(
      "li",
      h("span", {class: `sample ${verdict.replace(" ", "-")}`}, verdict),
      ` ${number} `,
      h("span.soft", MEANINGS[verdict]),
    ),
  );
  return h("ul.legend", {"aria-label": "Marks of the patterns in these contexts"}, items);
}

function drawContexts(panel, record, index, state, change) {
  const examples = record.examples.filter(({band}) => band === state.band);
  if (examples.length === 0)
    return fill(panel, nothing("No context of this band was kept: none of its activations lies in it."));
  const patterns = record.patterns[state.marks]?.patterns;
  const judge = patterns ? example => judged(patterns, example, index.text_start) : null;
  const {lines, whole} = state;
  const {largest} = record;
  const scale = () => h("span.scale", {"aria-hidden": "true"}, "0", h("span.ramp"), short(largest));
  const press = name => () => {
    change({[name]: !state[name]});
    panel.querySelector(`[data-press=${name}]`).focus(); // drawn anew
  };
  const toggles = [
    toggle("Whole blocks", whole, press("whole"), {"data-press": "whole"}),
    toggle("Line breaks", lines, press("lines"), {"data-press": "lines"}),
  ];
  const switches = h("div.switches-row", judge ? legend(examples, judge, whole) : scale(), h("span.toggles", toggles));
  return fill(
    panel,
    switches,
    h(
      "ol",
      examples.map(example => contextItem(example, {largest, lines, whole, judge})),
    ),
  );
}

export function contextsSection(record, told, state, change) {
  const {list, tabs} = bandTabs(record, told.bands, change);
  const panel = h("div", {role: "tabpanel", id: "contexts"});
  const draw = () => {
    for (const tab of tabs) {
      const isChosen = Number(tab.dataset.band) === state.band;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${state.band}`);
    drawContexts(panel, record, told.index, state, change);
  };
  return {section: h("section", h("h2", "Contexts"), list, panel), draw};
}
