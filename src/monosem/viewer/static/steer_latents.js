// The latents that are steered: how, how strongly, and how another one is found.

import {debounced, fill, h} from "./dom.js";
import {SourceError} from "./fetching.js";
import {count, short} from "./numbers.js";
import {lastOnly, named, nothing, textField} from "./parts.js";
import {toLatent, wholeNumber} from "./route.js";
import {prose} from "./text.js";

/** What can be done to a latent. Strengths are multiples of its largest seen activation, `isFactor`: of what it is. */
export const HOWS = {
  add: {label: "add", usual: 4, min: -10, max: 10, step: 0.5},
  clamp: {label: "clamp to", usual: 4, min: 0, max: 10, step: 0.5},
  ablate: {label: "ablate", usual: 0},
  scale: {label: "scale by", usual: 2, min: 0, max: 10, step: 0.1, isFactor: true},
};

function strengthText({how, multiple}, largest) {
  if (how === "ablate") return "set to 0";
  if (HOWS[how].isFactor) return `× ${multiple}`;
  if (largest === undefined) return `${multiple} × its largest`;
  // A latent that never fired has no largest activation: its unit is one.
  return largest === null
    ? `${multiple} (it never fired: in units of 1)`
    : `${multiple} × ${short(largest)} = ${short(multiple * largest)}`;
}

function strength(each, largest, changed) {
  const told = h("output.number");
  const slide = () => {
    each.multiple = Number(slider.value);
    draw();
    changed();
  };
  const slider = h("input", {type: "range", "aria-label": `Strength of latent ${each.latent}`, oninput: slide});
  const draw = () => {
    const {min, max, step} = HOWS[each.how];
    slider.hidden = each.how === "ablate";
    if (!slider.hidden) {
      Object.assign(slider, {min, max, step});
      slider.value = String(each.multiple);
      slider.style.setProperty("--zero", String((0 - min) / (max - min)));
    }
    told.value = strengthText(each, largest.get(each.latent));
    slider.setAttribute("aria-valuetext", told.value);
  };
  draw();
  return {nodes: [slider, told], draw};
}

/** A chosen latent: what is done to it, and how strongly. */
export function steeredRow(each, {largest, source, signal, changed, remove}) {
  const {latent} = each;
  const label = h("bdi.bar-label");
  const {nodes, draw} = strength(each, largest, changed);
  const choose = ({target}) => {
    Object.assign(each, {how: target.value, multiple: HOWS[target.value].usual});
    draw();
    changed();
  };
  const options = Object.entries(HOWS).map(([how, {label: name}]) =>
    h("option", {value: how, selected: each.how === how}, name),
  );
  const how = h("select", {"aria-label": `What is done to latent ${latent}`, onchange: choose}, options);
  source.latent(latent, signal).then(
    record => {
      largest.set(latent, record.largest);
      fill(label, prose(record.label, 80));
      draw();
    },
    error => error.name !== "AbortError" && fill(label, error.message),
  );
  const link = h("a.latent-id", {href: toLatent(latent)}, String(latent));
  const out = h("button.icon", {onclick: remove, "aria-label": `Take latent ${latent} out`}, "×");
  return h("li", h("p.steered-name", link, label, out), h("p.steered-how", how, nodes));
}

const offer = (each, choose) => h("li", h("button.offer", {onclick: () => choose(each.latent)}, named(each)));

/** What a text in the picker finds: the latent of a number, or those that promote a token. */
async function offers(text, total, source, signal) {
  const number = wholeNumber(text);
  if (text.trim() === "") return [];
  if (number !== null) {
    if (number >= total) throw new SourceError(`There are ${count(total)} latents, counted from 0.`, 0);
    return [{latent: number, label: await source.label(number, signal)}];
  }
  const {latents} = await source.search({promotes: text, limit: 6}, {signal});
  if (latents.length === 0) throw new SourceError("No latent promotes such a token.", 0);
  return latents;
}

/** A field that takes a latent's number, or finds latents by a token that they promote. */
export function latentPicker({source, signal, announce}, total, add) {
  const found = h("ul.found");
  const only = lastOnly(signal);
  const choose = latent => {
    add(latent);
    field.value = "";
    fill(found);
    field.focus();
    announce(`Latent ${latent} is added.`);
  };
  const look = debounced(async () => {
    const done = await only(own => offers(field.value, total, source, own));
    if (done === null) return;
    fill(found, done.error ? h("li", nothing(done.error.message)) : done.result.map(each => offer(each, choose)));
  }, 150);
  const enter = event => {
    if (event.key !== "Enter" || event.ctrlKey) return;
    event.preventDefault();
    const number = wholeNumber(field.value);
    if (number !== null && number < total) choose(number);
    else found.querySelector("button")?.click();
  };
  const field = textField("steer-find", "Number, or a token it promotes", {oninput: look, onkeydown: enter});
  return h("div.picker", h("label.field-name", {htmlFor: "steer-find"}, "Add a latent"), field, found);
}
