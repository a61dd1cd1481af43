// A latent's page: what it fires on, where, how strongly, and what it does.

import {h} from "./dom.js";
import {contextsSection, TOP} from "./contexts.js";
import {ablation, activations, effects, explanationSection, firesOn, neighbours} from "./latent_parts.js";
import {count, counted, hundredth, oneIn, percent, short} from "./numbers.js";
import {notice} from "./parts.js";
import {address, replaceAddress, toLatent, toSearch, wholeNumber} from "./route.js";
import {prose, proseNode} from "./text.js";

/** How a latent is looked at, as it stands in the address. */
function stateOf(params, {patterns}) {
  const [band, kinds] = [params.get("band") ?? "", Object.keys(patterns)];
  const marks = params.get("marks") ?? kinds[0];
  return {
    band: /^\d$/.test(band) ? Number(band) : TOP,
    marks: kinds.includes(marks) ? marks : "none",
    lines: params.get("lines") === "1",
    whole: params.get("whole") === "1",
  };
}

function stateParams({band, marks, lines, whole}, {patterns}) {
  const usual = Object.keys(patterns)[0] ?? "none";
  return {
    band: band === TOP ? null : band,
    marks: marks === usual ? null : marks,
    lines: lines ? 1 : null,
    whole: whole ? 1 : null,
  };
}

function readouts(record, index) {
  const readout = (label, value, note) => h("div.readout", h("dt", label), h("dd", h("b", value), h("span", note)));
  return h(
    "dl.readouts",
    readout("Density", percent(record.density), record.fired ? oneIn(record.density) : "never"),
    readout("Fired on", count(record.fired), `of ${counted(index.tokens, "token")}`),
    readout("Mean", short(record.mean), "activation where it fires"),
    readout("Largest", short(record.largest), "activation"),
    readout("Encoder cosine", hundredth(record.encoder_cosine), "with its decoder row"),
    readout("Nearest", hundredth(record.nearest_cosine), "other decoder row’s cosine"),
  );
}

/** Links to the latents before and after, which are looked at in the same way. */
function stepLinks(latent, total) {
  const step = (by, name, key, text) => {
    const to = latent + by;
    if (to < 0 || to >= total) return null;
    const attributes = {
      "aria-label": `${name} latent, ${to}`,
      "aria-keyshortcuts": key,
      title: `${name} latent (${key})`,
    };
    return h("a.step", {href: toLatent(to), "data-to": to, "data-key": key, ...attributes}, text(to));
  };
  return [step(-1, "Previous", "k", to => `‹ ${to}`), step(1, "Next", "j", to => `${to} ›`)];
}

function heading({latent, label, largest}, told) {
  const steps = stepLinks(latent, told.run.n_latents);
  const steer = address("steer", null, {latents: `${latent}:add:4`});
  return h(
    "header.latent-head",
    h("div.kicker", h("span", "Latent"), h("nav.steps", {"aria-label": "Latents beside it"}, steps)),
    h("h1", h("span.latent-number", String(latent)), " ", proseNode(label, {class: "latent-label"})),
    h(
      "p.actions",
      h("a", {href: toSearch({like: latent})}, "Latents like it"),
      told.can.steer && largest && h("a", {href: steer}, "Steer with it"),
    ),
  );
}

function deadNote({tokens}) {
  const none = `None of the ${counted(tokens, "indexed token")} made this latent positive: no contexts, no histogram.`;
  return h(
    "section.notice",
    h("h2", "It never fires"),
    h("p", none, " What its decoder row would do is shown all the same."),
  );
}

function stepKeys(head) {
  const go = key => () => head.querySelector(`[data-key=${key}]`)?.click();
  return {j: go("j"), ArrowRight: go("j"), k: go("k"), ArrowLeft: go("k")};
}

/** All of the page below the heading, and what draws it anew when it is looked at in another way. */
function bodyOf(record, told, state, change) {
  const contexts = record.fired
    ? contextsSection(record, told, state, change)
    : {section: deadNote(told.index), draw: () => {}};
  const [explanation, histogram] = [explanationSection(record, told, state, change), activations(record, told, state)];
  const draw = () => {
    for (const part of [contexts, explanation, histogram]) part.draw();
  };
  const main = h("div.latent-main", explanation.section, contexts.section, neighbours(record));
  const side = h("div.latent-side", histogram.section, firesOn(record), effects(record), ablation(record, told));
  return {node: h("div.latent-body", main, side), draw};
}

export async function latent({route, source, run, signal, announce}) {
  const number = wholeNumber(route.id);
  const all = h("a", {href: toSearch()}, "all latents");
  if (number === null)
    return notice("No such latent", `“${prose(route.id ?? "", 40)}” is no latent’s number; see `, all, ".");
  const [record, told] = await Promise.all([source.latent(number, signal), run]);
  const state = stateOf(route.params, record);
  const head = heading(record, told);
  const body = bodyOf(record, told, state, what => change(what));
  const steps = [...head.querySelectorAll("[data-to]")];
  const draw = () => {
    // Which patterns are marked is particular to this latent; that none are goes along.
    const marks = state.marks === "none" && Object.keys(record.patterns).length ? "none" : null;
    for (const link of steps)
      link.setAttribute("href", toLatent(link.dataset.to, {...stateParams(state, record), marks}));
    body.draw();
  };
  const change = what => {
    Object.assign(state, what);
    replaceAddress("latent", number, stateParams(state, record));
    draw();
    if (what.band === undefined) return;
    announce(counted(record.examples.filter(({band}) => band === state.band).length, "context"));
  };
  draw();
  return {
    title: `Latent ${number}`,
    content: [head, readouts(record, told.index), body.node],
    keys: stepKeys(head),
    // Those that the next key would ask for are there when it comes.
    shown: () => source.isStatic || steps.forEach(link => source.latent(Number(link.dataset.to)).catch(() => {})),
  };
}
