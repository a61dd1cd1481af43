// A latent's contexts: tabs for the strongest and for each band of activations, with the marks of its patterns.

import {contextItem, shownPart} from "./contexts.js";
import {fill, h} from "./dom.js";
import {short} from "./numbers.js";
import {nothing, rove, toggle} from "./parts.js";
import {FALSE_ALARM, HIT, judged, MISS} from "./patterns.js";

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

function drawContexts(panel, record, state, change) {
  const examples = record.examples.filter(({band}) => band === state.band);
  if (examples.length === 0)
    return fill(panel, nothing("No context of this band was kept: none of its activations lies in it."));
  const patterns = record.patterns[state.marks]?.patterns;
  const judge = patterns ? example => judged(patterns, example) : null;
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
    drawContexts(panel, record, state, change);
  };
  return {section: h("section", h("h2", "Contexts"), list, panel), draw};
}
