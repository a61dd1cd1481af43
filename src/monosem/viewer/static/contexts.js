// Contexts: a block's tokens in running text, shaded by a latent's activation, whose exact value is read on each.

import {h} from "./dom.js";
import {count, exact, percent, short} from "./numbers.js";
import {rove} from "./parts.js";
import {FALSE_ALARM} from "./patterns.js";
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
export function shownPart({position, ids}, whole) {
  const length = ids.length;
  if (whole || length <= BEFORE + AFTER + 8) return [0, length];
  const from = Math.max(0, Math.min(position - BEFORE, length - BEFORE - AFTER));
  return [from, Math.min(length, from + BEFORE + AFTER)];
}

/**
 * An example of a latent as a list item. `options`: `largest` of the latent; `lines`: whitespace as it is written;
 * `whole`: the whole block; `judge(example)`: position → verdict, or null.
 */
export function contextItem(example, options) {
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
