// The overview's drawings: how often latents fire, any two measures of them, and a few that are worth a look.

import {fill, h} from "./dom.js";
import {count, counted, hundredth, percent, short} from "./numbers.js";
import {menu, nothing} from "./parts.js";
import {densityPlot} from "./plots.js";
import {replaceAddress, toLatent} from "./route.js";
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

export function densitySection({density, run, index}) {
  return h(
    "figure",
    h("figcaption", h("h2", "Density"), h("p.note", densitySentence(density, run.n_latents, index.tokens))),
    h("p.axis-name", "latents, by the share of tokens they fire on"),
    densityPlot(density),
  );
}

const LABELS = Object.fromEntries(Object.entries(AXES).map(([name, {label}]) => [name, label]));

export function scatterSection(data, route, source, announce) {
  const title = h("h2", "Latents by two measures");
  if (data.latent.length === 0) return h("section", title, nothing("No latent fires, so there is nothing to plot."));
  const valid = (name, usual) => (Object.hasOwn(AXES, route.params.get(name) ?? "") ? route.params.get(name) : usual);
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
    menu("Up", LABELS, axes.y, y => change({y})),
    menu("Across", LABELS, axes.x, x => change({x})),
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

export function lookSection(data, source, signal) {
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
