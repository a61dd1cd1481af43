// A prompt of the reader's own: each token's active latents while it is typed, and where in it a latent is active.

import { debounced, fill, h } from "./dom.js";
import { counted } from "./numbers.js";
import { lastOnly, menu, notice, nothing, rove, wrong } from "./parts.js";
import { chosenNote, latentList, tokenButton } from "./prompt_parts.js";
import { replaceAddress, wholeNumber } from "./route.js";

const WAIT = 180;
// Latents that fire on many tokens fire on most of these too, and tell little.
const DENSITIES = { "": "all latents", 0.1: "those on under 10% of tokens", 0.01: "those on under 1%" };

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
  return { ...answer, tokens: answer.tokens.map((token) => ({ ...token, latents: token.latents.filter(isShown) })) };
}

export const unavailable = (title) =>
  notice(
    title,
    "This is an exported site: it has no model to run. Start “monosem view RUN” where the run is, and this page works.",
  );

/** The tokens, and the latents beside them; drawn anew on every answer and choice. */
function answerView(state, choose) {
  const tokens = h("div.prompt-tokens", { role: "group", "aria-label": "Tokens of the text" });
  const about = h("div");
  const side = h("section.panel", { "aria-label": "Active latents" });
  rove(tokens, "button");
  const draw = (answer) => {
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
      shown.tokens.map((token, place) => tokenButton(token, place, shown, state, choose)),
    );
    fill(about, chosenNote(shown, state));
    fill(side, latentList(shown, state, choose));
  };
  /** The focus stays on what was pressed, though it is drawn anew. */
  const redraw = (answer) => {
    const focused = document.activeElement;
    const [place, latent] = [[...tokens.children].indexOf(focused), focused?.dataset.latent];
    draw(answer);
    if (place >= 0) tokens.children[place]?.focus();
    else if (latent) side.querySelector(`[data-latent="${latent}"]`)?.focus();
  };
  return { tokens, about, side, draw, redraw };
}

/** Asks for the latents of the text that is typed, and shows them. */
function asker(state, { source, signal, announce }, status, show) {
  const only = lastOnly(signal);
  return async () => {
    const done = await only((own) => (state.text === "" ? null : source.prompt(state.text, own)));
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
  const choose = (what) => {
    Object.assign(state, what);
    remember();
    view.redraw(answer);
  };
  const view = answerView(state, choose);
  const status = h("p.status");
  const ask = asker(state, context, status, (found) => view.draw((answer = found)));
  const later = debounced(ask, WAIT);
  const type = ({ target }) => {
    Object.assign(state, { text: target.value, token: null });
    remember();
    later();
  };
  const attributes = { id: "prompt-text", rows: 3, spellcheck: "false", "data-search": true, placeholder: "Any text" };
  const field = h("textarea", { ...attributes, value: state.text, oninput: type });
  const dense = menu("Show", DENSITIES, state.dense, (value) => choose({ dense: value }));
  const name = h("label.field-name", { htmlFor: "prompt-text" }, "Text");
  const left = h("div", name, field, h("div.results-head", status, dense), view.tokens, view.about);
  view.draw(null);
  return {
    title: "Prompt",
    content: [h("header.page-head", h("h1", "Prompt")), h("div.prompt", left, view.side)],
    shown: ask,
  };
}
