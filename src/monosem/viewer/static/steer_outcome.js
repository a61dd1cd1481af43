// What steering changed: the next token's probabilities, and the text that follows.

import {h} from "./dom.js";
import {percent, short} from "./numbers.js";
import {bar} from "./plots.js";
import {tokenChip, tokenNodes} from "./text.js";

function change(before, after) {
  if (!(before > 0) || !(after > 0)) return "";
  const ratio = after / before;
  return ratio >= 1 ? `× ${short(ratio, 2)}` : `÷ ${short(1 / ratio, 2)}`;
}

/** Paired bars: a token's probability before, and after. */
function nextTokens(rows) {
  const most = Math.max(...rows.map(({before, after}) => Math.max(before, after)), 1e-9);
  const line = (name, share, kind) =>
    h("span.paired", h("span.unseen", name), bar(share / most, kind), h("span.number", percent(share)));
  const body = rows.map(({text, before, after}) =>
    h(
      "tr",
      h("th", {scope: "row"}, tokenChip(text)),
      h("td", line("before", before, "plain"), line("after", after, "")),
      h("td.number", change(before, after)),
    ),
  );
  const head = h(
    "tr",
    h("th", {scope: "col"}, "Token"),
    h("th", {scope: "col"}, "Probability"),
    h("th", {scope: "col"}, "Change"),
  );
  return h("table.next", h("caption.unseen", "Next token, before and after"), h("thead", head), h("tbody", body));
}

const continuation = tokens =>
  h(
    "li",
    h(
      "p.context.lines",
      tokens.length ? tokens.map(text => h("span.t", tokenNodes(text, true))) : h("span.none", "nothing"),
    ),
  );

function continuations({before, after}) {
  const column = (title, kind, samples) =>
    h(
      "div",
      h("h3", h("span", {class: `key ${kind}`, "aria-hidden": "true"}), title),
      h("ol.continuations", samples.map(continuation)),
    );
  return h("div.pair", column("Before", "plain", before), column("After", "", after));
}

export function outcome(answer) {
  const legend = h(
    "p.note",
    h("span.key.plain", {"aria-hidden": "true"}),
    "before ",
    h("span.key", {"aria-hidden": "true"}),
    "after",
  );
  const none = h("p.none", "No continuations were sampled.");
  return [
    h("h2", "Next token"),
    legend,
    nextTokens(answer.next),
    h("h2", "Continuations"),
    answer.after.length ? continuations(answer) : none,
  ];
}
