// The overview: what was trained on what, how good it is, how often its latents fire, and a few to begin with.

import {fill, h} from "./dom.js";
import {describe, grouped, LEADING} from "./metrics.js";
import {count, counted, estimate, hundredth, percent, short} from "./numbers.js";
import {menu, nothing} from "./parts.js";
import {densityPlot} from "./plots.js";
import {address, replaceAddress, toLatent, toSearch} from "./route.js";
import {AXES, scatterPlot} from "./scatter.js";
import {prose} from "./text.js";

/** Where most latents lie, as a sentence for whoever does not see the plot. */
function densitySentence({edges, counts, dead}, n, tokens) {
  const total = counts.reduce((sum, each) => sum + each, 0);
  const deadText =
    dead === 0
      ? `None of the ${count(n)} latents is dead`
      : `${count(dead)} of ${counted(n, "latent")} (${percent(dead / n)}) ${dead === 1 ? "is" : "are"} dead`;
  const told = `${deadText}: ${dead === 0 ? "each" : "never"} fired on the ${count(tokens)} indexed tokens.`;
  if (total === 0) return told;
  let below = 0;
  const middle = counts.findIndex(each => (below += each) >= total / 2);
  return `${told} Half of the living fire on less than ${percent(10 ** edges[middle + 1])} of tokens.`;
}

function densitySection({density, run, index}) {
  return h(
    "figure",
    h("figcaption", h("h2", "Density"), h("p.note", densitySentence(density, run.n_latents, index.tokens))),
    h("p.axis-name", "latents, by the share of tokens they fire on"),
    densityPlot(density),
  );
}

function scatterSection(data, route, source, announce) {
  const title = h("h2", "Latents by two measures");
  if (data.latent.length === 0) return h("section", title, nothing("No latent fires, so there is nothing to plot."));
  // A measure that this run's latents lack, such as an encoder's cosine between two spaces, is not offered.
  const there = Object.entries(AXES).filter(([name]) => data[name].some(value => value !== null));
  const labels = Object.fromEntries(there.map(([name, {label}]) => [name, label]));
  const valid = (name, usual) => (Object.hasOwn(labels, route.params.get(name) ?? "") ? route.params.get(name) : usual);
  const axes = {x: valid("x", "density"), y: valid("y", "largest")};
  const plot = scatterPlot(data, latent => source.label(latent), announce);
  const note = h("p.note");
  const draw = () => {
    plot.draw({...axes});
    const all = counted(data.of, "living latent");
    const drawn = data.latent.length < data.of ? `${count(data.latent.length)} of ${all}, evenly drawn` : all;
    const meanings = [...new Set([axes.x, axes.y])].map(axis => `${AXES[axis].label}: ${AXES[axis].meaning}.`);
    fill(note, `${drawn}. ${meanings.join(" ")}`);
  };
  const change = what => {
    Object.assign(axes, what);
    replaceAddress("", null, {x: axes.x === "density" ? null : axes.x, y: axes.y === "largest" ? null : axes.y});
    draw();
  };
  draw();
  const choices = h(
    "div.axes",
    menu("Up", labels, axes.y, y => change({y})),
    menu("Across", labels, axes.x, x => change({x})),
  );
  return h("section", title, note, choices, plot.canvas);
}

// A measure, whether its highest or its lowest, whether of latents of usual density alone, and what that says.
const LOOKS = [
  ["top_token_share", 1, true, share => `One token alone: ${percent(share)} of its activation`],
  ["top_token_share", -1, true, share => `Many tokens: at most ${percent(share)} on any`],
  ["largest", 1, false, value => `The largest activation: ${short(value)}`],
  ["density", 1, false, share => `The densest: ${percent(share)} of tokens`],
  ["nearest_cosine", 1, false, value => `Nearest to another: cosine ${hundredth(value)}`],
  ["encoder_cosine", -1, false, value => `Reads otherwise than it writes: cosine ${hundredth(value)}`],
];

/** Latents that are extreme in a way that tells something, each once. */
function worthALook(data) {
  const taken = new Set();
  return LOOKS.flatMap(([measure, sign, isUsual, why]) => {
    const values = data[measure];
    const may = i =>
      values[i] !== null && !taken.has(i) && (!isUsual || (data.density[i] > 1e-4 && data.density[i] < 0.05));
    const best = values.reduce(
      (found, value, i) => (may(i) && (found < 0 || sign * value > sign * values[found]) ? i : found),
      -1,
    );
    if (best < 0) return [];
    taken.add(best);
    return [{latent: data.latent[best], why: why(values[best])}];
  });
}

function lookSection(data, source, signal) {
  const chosen = worthALook(data);
  if (chosen.length === 0) return null;
  const cards = chosen.map(({latent, why}) => {
    const label = h("bdi.look-label", "…");
    source.label(latent, signal).then(
      text => fill(label, prose(text, 80)),
      () => fill(label, ""),
    );
    return h(
      "li",
      h("a", {href: toLatent(latent), class: "look"}, h("span.latent-id", String(latent)), label, h("span.soft", why)),
    );
  });
  return h("section", h("h2", "Worth a look"), h("ul.looks", cards));
}

/** A name of the data's own as words. */
const words = name => prose(name.replaceAll("_", " "));

const fact = (name, value, note = null) =>
  value !== null &&
  value !== undefined &&
  h("div", h("dt", name), h("dd", h("bdi", value), note && h("span.soft", note)));

function trainingFacts({tokens, seed, silent_share, silent_tokens, ...others}) {
  const ends = Object.entries(others).filter(([, value]) => typeof value === "number");
  const told = ([name, value]) => (name.endsWith("_share") ? percent(value) : short(value));
  return [
    fact("Trained on", counted(tokens, "token"), seed !== undefined && `seed ${seed}`),
    ...ends.map(each => fact(`In the end, ${words(each[0]).replace("l0", "L0")}`, told(each))),
    silent_tokens && fact("Silent", percent(silent_share), `for the last ${counted(silent_tokens, "token")}`),
  ];
}

const SPLITS = {training: "text it was trained on", held_out: "held-out text"};

function card({run, index, with: has}) {
  const site = run.hookpoints.join(" + ") + (run.target ? ` → ${run.target}` : "");
  const explained = [
    [has.patterns, "N2G patterns"],
    [has.explanations, "explanations in words"],
    [has.ablations, "ablations"],
  ].filter(([number]) => number);
  return h(
    "dl.facts",
    fact("Subject model", prose(run.subject), run.revision && prose(run.revision).slice(0, 12)),
    fact(run.hookpoints.length > 1 ? "Hookpoints" : "Hookpoint", prose(site), `${count(run.d_model)} wide`),
    fact("Architecture", words(run.architecture)),
    fact("Latents (n)", count(run.n_latents)),
    fact("Active a token (k)", run.k === null ? null : count(run.k)),
    fact("Preprocessing", words(run.preprocess)),
    trainingFacts(run.training),
    fact(
      "Indexed",
      counted(index.tokens, "token"),
      [SPLITS[index.split], counted(index.documents, "document"), `blocks of ${index.context_length}`].join(", "),
    ),
    explained.length > 0 &&
      fact("Explained", explained.map(([number, what]) => `${count(number)} with ${what}`).join(", ")),
  );
}

function leading(metrics) {
  const found = Object.keys(LEADING).map(name => metrics.find(metric => metric.name === name));
  const cells = found.filter(Boolean).map(metric => {
    const {meaning, isShare, group} = describe(metric.name);
    const {value, interval} = estimate(metric, isShare);
    return h(
      "div.readout",
      {title: group},
      h("dt", LEADING[metric.name]),
      h("dd", h("b", value), h("span.interval", interval), h("span", meaning)),
    );
  });
  return h("dl.readouts", cells);
}

function metricRow({label, meaning, isShare, ...metric}) {
  const {value, interval} = estimate(metric, isShare);
  return h(
    "tr",
    h("th", {scope: "row"}, prose(label), meaning && h("span.soft", meaning)),
    h("td.number", value),
    h("td.number.interval", interval),
  );
}

function metricsSection(metrics) {
  const title = h("h2", "Metrics");
  if (metrics.length === 0)
    return h("section", title, nothing("This run was not evaluated: “monosem eval RUN” measures it."));
  const tables = grouped(metrics).map(([group, rows], i) =>
    h(
      "details",
      {open: i < 4},
      h("summary", h("h3", group), h("span.soft", String(rows.length))),
      h("table", h("caption.unseen", group), h("tbody", rows.map(metricRow))),
    ),
  );
  return h("section.metrics", title, h("p.note", "In brackets: 95% intervals."), h("div.metric-groups", tables));
}

export async function overview({route, source, run, signal, announce}) {
  const [told, data] = await Promise.all([run, source.scatter(signal)]);
  const {name, n_latents: n, architecture, subject} = told.run;
  const intro = h(
    "p.lead",
    `${counted(n, "latent")} of a ${prose(architecture.replaceAll("_", " "))} autoencoder on `,
    h("bdi", prose(subject)),
    ". ",
    h("a", {href: toSearch()}, "Search them"),
    told.can.prompt && [", or ", h("a", {href: address("prompt")}, "type a prompt"), " and see which fire"],
    ".",
  );
  return {
    title: prose(name, 60),
    content: [
      h("header.page-head", h("p.kicker", "Run"), h("h1", h("bdi", prose(name, 120))), intro),
      leading(told.metrics),
      h("div.figures", densitySection(told), scatterSection(data, route, source, announce)),
      lookSection(data, source, signal),
      h("div.overview-body", metricsSection(told.metrics), h("section", h("h2", "The run"), card(told))),
    ],
  };
}
