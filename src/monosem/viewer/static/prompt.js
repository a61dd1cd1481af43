// A prompt of the reader's own: each token's active latents while it is typed, and where in it a latent is active.

import {shade} from "./contexts.js";
import {debounced, fill, h} from "./dom.js";
import {count, counted, exact, percent, short} from "./numbers.js";
import {lastOnly, menu, named, notice, nothing, pageHead, rove, wrong} from "./parts.js";
import {bar} from "./plots.js";
import {withReading} from "./reading.js";
import {replaceAddress, toLatent, wholeNumber} from "./route.js";
import {proseNode, tokenChip, tokenNodes, visible} from "./text.js";

const MOST_LISTED = 40;

const relative = ({latent, value}, {latents}) => value / (latents[latent]?.largest || value);

const valueOf = (token, latent) => token.latents.find(([each]) => each === latent)?.[1] ?? 0;

/** A token: pressed where it is chosen. */
function tokenButton(token, place, state, choose) {
  const value = state.latent === null ? 0 : valueOf(token, state.latent);
  const isChosen = place === state.token;
  const attributes = {
    class: "t",
    "aria-pressed": String(isChosen),
    tabindex: place === (state.token ?? 0) ? 0 : -1,
    onclick: () => choose({token: isChosen ? null : place}),
  };
  const active = value ? `latent ${state.latent}: ${exact(value)}` : `latent ${state.latent} is not active`;
  return withReading(h("button", attributes, tokenNodes(token.text, false)), () => [
    h("b", h("bdi", visible(token.text))),
    h("span", state.latent === null ? counted(token.latents.length, "active latent") : active),
  ]);
}

/** Shade the tokens by their activations of a latent, or by nothing. */
function shadeBy(latent, tokens, answer) {
  answer.tokens.forEach((token, place) => {
    const value = latent === null ? 0 : valueOf(token, latent);
    const depth = value && shade(value, answer.latents[latent]?.largest ?? value);
    tokens.children[place]?.style.setProperty("--a", depth);
  });
}

/** Each latent that is active anywhere, with its largest activation in the text; by its share of the largest seen. */
function strongest(answer) {
  const found = new Map();
  for (const {latents} of answer.tokens) {
    for (const [latent, value] of latents) {
      const seen = found.get(latent) ?? {latent, value: 0, tokens: 0};
      found.set(latent, {latent, value: Math.max(seen.value, value), tokens: seen.tokens + 1});
    }
  }
  return [...found.values()].sort((a, b) => relative(b, answer) - relative(a, answer));
}

/** A latent: pressed where it is chosen; `look` is told while it is pointed at or has the focus. */
function latentRow(row, answer, state, choose, look) {
  const {latent, value, tokens} = row;
  const {label = "", density = null} = answer.latents[latent] ?? {};
  const isChosen = state.latent === latent;
  const share = relative(row, answer);
  const attributes = {
    class: "pick",
    "aria-pressed": String(isChosen),
    "data-latent": latent,
    title: "Show where it is active",
  };
  const pick = h(
    "button",
    {
      ...attributes,
      onclick: () => choose({latent: isChosen ? null : latent}),
      onpointerenter: () => look(latent),
      onpointerleave: () => look(state.latent),
      onfocus: () => look(latent),
      onblur: () => look(state.latent),
    },
    named({latent, label}),
    bar(share),
    h("span.number", short(value)),
  );
  const here = tokens ? `, on ${counted(tokens, "token")} here` : "";
  const note = `${percent(share)} of its largest${here}; fires on ${percent(density)}`;
  const open = h("a", {href: toLatent(latent), class: "open", "aria-label": `Open latent ${latent}`}, "open");
  return h("li", pick, open, h("span.note", note));
}

function latentList(answer, state, choose, look) {
  const token = answer.tokens[state.token ?? -1];
  const rows = token ? token.latents.map(([latent, value]) => ({latent, value})) : strongest(answer);
  const shown = rows.slice(0, MOST_LISTED).map(row => latentRow(row, answer, state, choose, look));
  const active = counted(rows.length, "latent");
  const about = token
    ? `${active}, strongest first; bars are shares of each one’s largest activation.`
    : `${active} active, by share of each one’s largest activation. Choose a token for its own.`;
  const whole = token && h("button.link", {onclick: () => choose({token: null})}, "Whole text");
  return [
    h("div.panel-head", h("h2", token ? ["Active on ", tokenChip(token.text)] : "Strongest in the text"), whole),
    h("p.note", about),
    shown.length ? h("ol.picks", shown) : nothing("None that is shown."),
    rows.length > MOST_LISTED && h("p.note", `and ${count(rows.length - MOST_LISTED)} more`),
  ];
}

function chosenNote(answer, {latent}) {
  if (latent === null)
    return h("p.note", "Point at a latent to see where in the text it is active; choose it to keep that in sight.");
  const active = answer.tokens.filter(token => valueOf(token, latent) > 0).length;
  const label = answer.latents[latent]?.label;
  return h(
    "p.note",
    "Shaded by ",
    h("a", {href: toLatent(latent)}, `latent ${latent}`),
    label && [" (", proseNode(label), ")"],
    active ? `: active on ${counted(active, "token")}.` : ": not active in this text.",
  );
}

const WAIT = 180;
// Latents that fire on many tokens fire on most of these too, and tell little.
const DENSITIES = {"": "all latents", 0.1: "those on under 10% of tokens", 0.01: "those on under 1%"};

function stateOf(params) {
  const dense = params.get("dense") ?? "";
  return {
    text: params.get("text") ?? "",
    token: wholeNumber(params.get("token")),
    latent: wholeNumber(params.get("latent")),
    dense: Object.hasOwn(DENSITIES, dense) ? dense : "",
  };
}

/** An answer of the API without the latents that are too dense to be shown. */
function thinned(answer, dense) {
  if (dense === "") return answer;
  const isShown = ([latent]) => (answer.latents[latent]?.density ?? 0) < Number(dense);
  return {...answer, tokens: answer.tokens.map(token => ({...token, latents: token.latents.filter(isShown)}))};
}

export const unavailable = title =>
  notice(title, "This is an exported site: it has no model to run. Where the run is, “monosem view RUN” does this.");

/** The tokens, and the latents beside them; drawn anew on every answer and choice. */
function answerView(state, choose) {
  const tokens = h("div.prompt-tokens", {role: "group", "aria-label": "Tokens of the text"});
  const about = h("div");
  const side = h("section", {"aria-label": "Active latents"});
  rove(tokens, "button");
  const draw = answer => {
    if (!answer?.tokens.length) {
      fill(tokens, nothing("Type a text above: its tokens appear here, each with the latents that are active on it."));
      fill(side, nothing("The latents appear here."));
      fill(about);
      return;
    }
    const shown = thinned(answer, state.dense);
    if (state.token >= shown.tokens.length) state.token = null;
    fill(
      tokens,
      shown.tokens.map((token, place) => tokenButton(token, place, state, choose)),
    );
    const look = latent => shadeBy(latent, tokens, shown);
    look(state.latent);
    fill(about, chosenNote(shown, state));
    fill(side, latentList(shown, state, choose, look));
  };
  /** The focus stays on what was pressed, though it is drawn anew. */
  const redraw = answer => {
    const focused = document.activeElement;
    const [place, latent] = [[...tokens.children].indexOf(focused), focused?.dataset.latent];
    draw(answer);
    if (place >= 0) tokens.children[place]?.focus();
    else if (latent) side.querySelector(`[data-latent="${latent}"]`)?.focus();
  };
  return {tokens, about, side, draw, redraw};
}

function asker(state, {source, signal, announce}, status, show) {
  const only = lastOnly(signal);
  return async () => {
    const done = await only(own => (state.text === "" ? null : source.prompt(state.text, own)));
    if (done === null) return;
    if (done.error) fill(status, wrong(done.error));
    else {
      fill(status, done.result && counted(done.result.tokens.length, "token"));
      show(done.result);
    }
    announce(status.textContent);
  };
}

export async function prompt(context) {
  const told = await context.run;
  if (!told.can.prompt) return unavailable("Prompt");
  const state = stateOf(context.route.params);
  const remember = () => replaceAddress("prompt", null, state);
  let answer = null;
  const choose = what => {
    Object.assign(state, what);
    remember();
    view.redraw(answer);
  };
  const view = answerView(state, choose);
  const status = h("p.status");
  const ask = asker(state, context, status, found => view.draw((answer = found)));
  const later = debounced(ask, WAIT);
  const type = ({target}) => {
    Object.assign(state, {text: target.value, token: null});
    remember();
    later();
  };
  const attributes = {id: "prompt-text", rows: 3, spellcheck: "false", "data-search": true, placeholder: "Any text"};
  const field = h("textarea", {...attributes, value: state.text, oninput: type});
  const dense = menu("Show", DENSITIES, state.dense, value => choose({dense: value}));
  const name = h("label.field-name", {htmlFor: "prompt-text"}, "Text");
  const left = h("div", name, field, h("div.results-head", status, dense), view.tokens, view.about);
  view.draw(null);
  return {
    title: "Prompt",
    content: [pageHead("Prompt"), h("div.prompt", left, view.side)],
    shown: ask,
  };
}
