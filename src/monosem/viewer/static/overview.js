// The overview: what was trained on what, how good it is, how often its latents fire, and a few to begin with.

import {h} from "./dom.js";
import {describe, grouped, LEADING} from "./metrics.js";
import {count, counted, estimate, percent, short} from "./numbers.js";
import {nothing} from "./parts.js";
import {densitySection, lookSection, scatterSection} from "./overview_figures.js";
import {address, toSearch} from "./route.js";
import {prose} from "./text.js";

/** A name of the data's own as words. */
const words = name => prose(name[0].toUpperCase() + name.slice(1).replaceAll("_", " "));

const fact = (name, value, note = null) =>
  value !== null &&
  value !== undefined &&
  h("div", h("dt", name), h("dd", h("bdi", value), note && h("span.soft", note)));

function trainingFacts({tokens, ...others}) {
  const rest = Object.entries(others).filter(([, value]) => typeof value === "number");
  const told = ([name, value]) =>
    name.endsWith("_share") ? percent(value) : Number.isInteger(value) ? count(value) : short(value);
  return [fact("Trained on", counted(tokens, "token")), ...rest.map(each => fact(words(each[0]), told(each)))];
}

const SPLITS = {training: "text it was trained on", held_out: "held-out text"};

function card({run, index, with: has}) {
  const site = run.hookpoints.join(" + ") + (run.target ? ` → ${run.target}` : "");
  const extra = [
    [has.patterns, "N2G patterns"],
    [has.explanations, "explanations in words"],
    [has.ablations, "ablations"],
  ];
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
    fact("Explained", extra.map(([number, what]) => `${count(number)} with ${what}`).join(", ")),
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
