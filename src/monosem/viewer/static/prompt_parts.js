// What a prompt's answer is drawn as: tokens to choose from, and latents with their bars.

import { shade } from "./contexts.js";
import { h } from "./dom.js";
import { count, counted, exact, percent, short } from "./numbers.js";
import { nothing } from "./parts.js";
import { bar } from "./plots.js";
import { withReading } from "./reading.js";
import { toLatent } from "./route.js";
import { proseNode, tokenChip, tokenNodes, visible } from "./text.js";

const MOST_LISTED = 40;

/** An activation as a share of the latent's largest seen one. */
const relative = ({ latent, value }, { latents }) => value / (latents[latent]?.largest || value);

const valueOf = (token, latent) => token.latents.find(([each]) => each === latent)?.[1] ?? 0;

/** A token: pressed where it is chosen, shaded by the chosen latent. */
export function tokenButton(token, place, answer, state, choose) {
  const value = state.latent === null ? 0 : valueOf(token, state.latent);
  const isChosen = place === state.token;
  const attributes = {
    type: "button",
    class: "t",
    "aria-pressed": String(isChosen),
    tabindex: place === (state.token ?? 0) ? 0 : -1,
    vars: { a: value && shade(value, answer.latents[state.latent]?.largest ?? value) },
    onclick: () => choose({ token: isChosen ? null : place }),
  };
  const active = value ? `latent ${state.latent}: ${exact(value)}` : `latent ${state.latent} is not active`;
  return withReading(h("button", attributes, tokenNodes(token.text, false)), () => [
    h("b", h("bdi", visible(token.text))),
    h("span", state.latent === null ? counted(token.latents.length, "active latent") : active),
  ]);
}

/** Each latent that is active anywhere, with its largest activation in the text; by its share of the largest seen. */
function strongest(answer) {
  const found = new Map();
  for (const { latents } of answer.tokens) {
    for (const [latent, value] of latents) {
      const seen = found.get(latent) ?? { latent, value: 0, tokens: 0 };
      found.set(latent, { latent, value: Math.max(seen.value, value), tokens: seen.tokens + 1 });
    }
  }
  return [...found.values()].sort((a, b) => relative(b, answer) - relative(a, answer));
}

function latentRow(row, answer, state, choose) {
  const { latent, value, tokens } = row;
  const { label = "", density = null } = answer.latents[latent] ?? {};
  const isChosen = state.latent === latent;
  const share = relative(row, answer);
  const attributes = {
    type: "button",
    class: "pick",
    "aria-pressed": String(isChosen),
    "data-latent": latent,
    title: "Show where it is active",
  };
  const pick = h(
    "button",
    { ...attributes, onclick: () => choose({ latent: isChosen ? null : latent }) },
    h("span.latent-id", String(latent)),
    proseNode(label, { class: "bar-label" }),
    bar(share),
    h("span.number", short(value)),
  );
  const note = `${percent(share)} of its largest${tokens ? `, on ${counted(tokens, "token")} here` : ""}; fires on ${percent(density)}`;
  const open = h("a", { href: toLatent(latent), class: "open", "aria-label": `Open latent ${latent}` }, "open");
  return h("li", pick, open, h("span.soft.note", note));
}

/** The latents of the chosen token, or of the whole text. */
export function latentList(answer, state, choose) {
  const token = answer.tokens[state.token ?? -1];
  const rows = token ? token.latents.map(([latent, value]) => ({ latent, value })) : strongest(answer);
  const active = counted(rows.length, "latent");
  const about = token
    ? `${active}, strongest first; bars are shares of each one’s largest activation.`
    : `${active} active, by share of each one’s largest activation. Choose a token for its own.`;
  const whole = token && h("button.link", { type: "button", onclick: () => choose({ token: null }) }, "Whole text");
  return [
    h("div.panel-head", h("h2", token ? ["Active on ", tokenChip(token.text)] : "Strongest in the text"), whole),
    h("p.soft.note", about),
    rows.length
      ? h(
          "ol.picks",
          rows.slice(0, MOST_LISTED).map((row) => latentRow(row, answer, state, choose)),
        )
      : nothing("None that is shown."),
    rows.length > MOST_LISTED && h("p.soft.note", `and ${count(rows.length - MOST_LISTED)} more`),
  ];
}

/** What the tokens are shaded by. */
export function chosenNote(answer, { latent }) {
  if (latent === null) return h("p.soft.note", "Choose a latent to see where in the text it is active.");
  const active = answer.tokens.filter((token) => valueOf(token, latent) > 0).length;
  const label = answer.latents[latent]?.label;
  return h(
    "p.note",
    "Shaded by ",
    h("a", { href: toLatent(latent) }, `latent ${latent}`),
    label && [" (", proseNode(label), ")"],
    active ? `: active on ${counted(active, "token")}.` : ": not active in this text.",
  );
}
