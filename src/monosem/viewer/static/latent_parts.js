// What a latent's page holds besides contexts: explanation, activations, tokens, logit effects, neighbours, ablation.

import {fill, h} from "./dom.js";
import {count, hundredth, percent, short, signed} from "./numbers.js";
import {latentName, nothing, toggle} from "./parts.js";
import {activationPlot, barList} from "./plots.js";
import {toSearch} from "./route.js";
import {prose, tokenChip} from "./text.js";

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

const note = text => h("p.note", text);
const section = (title, ...content) => h("section", h("h2", title), content);
const tokenLink = (text, kind, title) => h("a", {href: toSearch({[kind]: text}), title}, tokenChip(text));

/** The histogram, which follows the chosen band. */
export function activations(record, {bands}, state) {
  if (!record.histogram) return {section: null, draw: () => {}};
  const place = h("div");
  const quantiles = record.quantiles.map((value, i) => h("div", h("dt", `${bands[i] * 100}%`), h("dd", short(value))));
  return {
    section: section(
      "Activations",
      note(`Of the ${count(record.fired)} tokens it fires on; below, their quantiles.`),
      place,
      h("dl.quantiles", quantiles),
    ),
    draw: () => fill(place, activationPlot(record, bands, state.band)),
  };
}

export function firesOn({fires_on: tokens}) {
  if (tokens.length === 0) return null;
  const rows = tokens.map(({text, count: times, mean, share}) => ({
    name: tokenLink(text, "fires", "Latents that fire on it"),
    value: percent(share),
    share,
    title: `${count(times)} times, at ${short(mean)} on average`,
  }));
  return section("Fires on", note("Share of its summed activation."), barList(rows, "Tokens it fires on"));
}

export function effects({promotes, suppresses}) {
  const all = [...promotes, ...suppresses];
  if (all.length === 0)
    return section("Logit effects", nothing("There are none: its decoder does not write where the unembedding reads."));
  const most = Math.max(...all.map(({effect}) => Math.abs(effect)));
  const side = (title, kind, title2, list, colour) => {
    const rows = list.map(({text, effect}) => ({
      name: tokenLink(text, kind, title2),
      value: signed(effect),
      share: Math.abs(effect) / most,
      kind: colour,
    }));
    return h("div", h("h3", title), barList(rows, `Tokens it ${kind}`));
  };
  return section(
    "Logit effects",
    note("Logits for one unit of its activation, through the final norm."),
    side("Promotes", "promotes", "Latents that promote it", promotes, ""),
    side("Suppresses", "suppresses", "Latents that suppress it", suppresses, "cool"),
  );
}

export function neighbours({neighbours: {decoder = [], firing = []}}) {
  const side = (title, about, rows, empty) => {
    const items = rows.map(row => h("li", latentName(row), h("span.number", hundredth(row.similarity))));
    return h(
      "div",
      h("h3", title),
      note(about),
      rows.length ? h("ol.near", {"aria-label": `Nearest ${title.toLowerCase()}`}, items) : nothing(empty),
    );
  };
  return section(
    "Neighbours",
    h(
      "div.pair",
      side("By decoder", "Cosine of decoder rows.", decoder, "None with a positive cosine."),
      side(
        "By firing",
        "Tokens with both, over √ of the product of tokens with each.",
        firing,
        "It fires with no other latent.",
      ),
    ),
  );
}

const ABLATED = {
  sparsity: ["Sparsity of the effect", "1 where all logits move alike; small where few do"],
  own_sparsity: ["At its own token", "0.637 for Gaussian effects"],
};

/** The evaluation's record, whatever it holds, by name; and beside a sparsity what others have. */
export function ablation({ablation: record}, told) {
  if (!record)
    return told.with.ablations
      ? section("Ablation", nothing("The run’s evaluation ablated other latents, not this one."))
      : null;
  const row = (name, value, about) =>
    h("div", h("dt", prose(name, 60), about && h("span.soft", about)), h("dd", value));
  const shown = value =>
    typeof value === "number" ? short(value) : value === null ? "no effect" : prose(JSON.stringify(value), 60);
  const rows = Object.entries(record).map(([name, value]) => {
    const [label, about] = ABLATED[name] ?? [name.replaceAll("_", " "), null];
    return row(label, shown(value), about);
  });
  const mean = (name, label) => {
    const metric = told.metrics.find(each => each.name === name);
    return metric && row(label, short(metric.value), null);
  };
  const others = [
    mean("ablation_sparsity_latents", "Mean of latents"),
    mean("ablation_sparsity_directions", "Mean of random directions"),
  ];
  return section("Ablation", note("What taking it out does to the next logits."), h("dl.facts", rows, others));
}
