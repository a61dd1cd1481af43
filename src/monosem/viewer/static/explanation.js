// How a latent is explained: a sentence with its scores, and N2G's patterns with theirs.

import {fill, h} from "./dom.js";
import {hundredth, short} from "./numbers.js";
import {nothing, toggle} from "./parts.js";
import {prose} from "./text.js";

const KINDS = {random: "random activations", top: "strongest activations", none: "none"};
const MOST_SHOWN = 12;

/** Precision, recall and F1 side by side; one that is not defined as a dash. */
function scores({precision, recall, f1}) {
  const score = (name, value) => h("div", h("dt", name), h("dd", hundredth(value)));
  return h("dl.scores", score("Precision", precision), score("Recall", recall), score("F1", f1));
}

function patternList(patterns) {
  const items = patterns.map(({text, activation}) =>
    h("li", h("code", prose(text)), h("span.number", {title: "Mean activation that it predicts"}, short(activation))),
  );
  const list = h("ul.patterns", items.slice(0, MOST_SHOWN));
  const more = items.length - MOST_SHOWN;
  if (more > 0) list.append(h("li", h("button.link", {onclick: () => fill(list, items)}, `${more} more`)));
  return list;
}

/** Which kind's patterns are shown, and marked in the contexts. */
function kindChoice(kinds, state, change) {
  const choice = kind =>
    toggle(KINDS[kind] ?? kind, state.marks === kind, () => change({marks: kind}), {"data-kind": kind});
  return h(
    "div.choice",
    {role: "group", "aria-label": "Patterns that are marked in the contexts"},
    h("span.soft", "Patterns from"),
    [...kinds, "none"].map(choice),
  );
}

const explained = (what, scored) => h("div.explained", what, scores(scored));

export function explanationSection(record, told, state, change) {
  const {explanation, patterns} = record;
  const kinds = Object.keys(patterns);
  const title = h("h2", "Explanation");
  const section = h("section");
  if (!explanation && kinds.length === 0) {
    const isAny = told.with.patterns + told.with.explanations > 0;
    const why = isAny
      ? "The run’s evaluation explained other latents, not this one."
      : "The run’s evaluation explained no latents; “monosem eval RUN --suite full” does.";
    return {section: fill(section, title, nothing(why)), draw: () => {}};
  }
  const draw = () => {
    const focused = document.activeElement?.dataset.kind;
    const kind = patterns[state.marks];
    fill(
      section,
      title,
      explanation && explained(h("blockquote", h("bdi", prose(explanation.text, 2000))), explanation),
      kinds.length > 0 ? kindChoice(kinds, state, change) : nothing("No N2G patterns were built for it."),
      kind && explained(patternList(kind.patterns), kind),
    );
    if (focused) section.querySelector(`[data-kind="${CSS.escape(focused)}"]`)?.focus(); // drawn anew
  };
  return {section, draw};
}
