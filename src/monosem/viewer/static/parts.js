// Small parts that several pages are made of.

import {h} from "./dom.js";
import {within} from "./numbers.js";
import {toLatent} from "./route.js";
import {proseNode} from "./text.js";

export const toggle = (label, isPressed, onclick, attributes = {}) =>
  h("button.toggle", {"aria-pressed": String(isPressed), onclick, ...attributes}, label);

/** A menu of `{ value: label }` with its name before it. */
export function menu(name, labels, chosen, change) {
  const options = Object.entries(labels).map(([value, label]) =>
    h("option", {value, selected: value === chosen}, label),
  );
  return h("label.menu", `${name} `, h("select", {onchange: ({target}) => change(target.value)}, options));
}

export const named = ({latent, label}) => [
  h("span.latent-id", String(latent)),
  " ",
  proseNode(label, {class: "bar-label"}),
];

/** They as a link to its page, unless it has none here. */
export const latentName = (each, isOurs = true) =>
  isOurs ? h("a.latent-name", {href: toLatent(each.latent)}, named(each)) : h("span.latent-name", named(each));

export const pageHead = (title, ...content) => h("header.page-head", h("h1", title), content);

/** A field of one line for text that is no prose. `data-search` is where "/" leads to. */
export const textField = (id, placeholder, attributes) =>
  h("input", {type: "text", id, placeholder, autocomplete: "off", spellcheck: "false", ...attributes});

/** What is said in place of something that is not there. */
export const nothing = (...text) => h("p.none", text);

export const notice = (title, ...content) => ({
  title,
  content: h("section.notice", h("h1", title), h("p", content)),
});

export const wrong = error => h("span.wrong", error.message);

/** Arrows, Home and End move the focus among what a selector finds; `act` is told of each step. */
export function rove(container, selector, act = null) {
  container.addEventListener("keydown", event => {
    const all = [...container.querySelectorAll(selector)];
    const at = all.indexOf(event.target);
    const next = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1}[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const target = all[within(next, 0, all.length - 1)];
    target.focus();
    act?.(target);
  });
  // The Tab key stops once, at what had the focus last.
  container.addEventListener("focusin", ({target}) => {
    const all = [...container.querySelectorAll(selector)];
    if (all.includes(target)) for (const each of all) each.tabIndex = each === target ? 0 : -1;
  });
}

/**
 * Runs jobs of which only the last counts: a new one aborts the one before, and so does leaving the page. Gives
 * `{ result }` or `{ error }`, or null for a job that is outdated.
 */
export function lastOnly(pageSignal) {
  let asked = new AbortController();
  return async job => {
    asked.abort();
    asked = new AbortController();
    const signal = AbortSignal.any([asked.signal, pageSignal]);
    try {
      const result = await job(signal);
      return signal.aborted ? null : {result};
    } catch (error) {
      return signal.aborted || error.name === "AbortError" ? null : {error};
    }
  };
}
