// Tokens and other text from data, shown for what they are: whitespace and controls visible, directions kept apart.

import {h} from "./dom.js";

const MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥"};
// Characters that cannot be seen or that change how others are shown: controls, formats (directions among them), lone
// surrogates, unassigned, private, separators, other spaces than the usual one, fillers.
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}\p{DI}\u2800]|(?! )\p{Zs}/u;
// And piles of accents, which would cover the lines around.
const UNSHOWN = `${UNSEEN.source}|(?<=\\p{M}{2})\\p{M}`;
// Pieces of a token that are shown as marks: runs of whitespace, these, characters that look like our own marks, and an
// accent that would stand on another token's letter.
const PIECES = new RegExp(`( +|\\n+|\\t+|${UNSHOWN}|[␣⏎⇥]|^\\p{M})`, "u");
const NOT_PROSE = new RegExp(`(${UNSHOWN})`, "u");
const LONGEST_RUN = 3;

const codeOf = character => `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;

function cut(text, longest) {
  const characters = text.length > longest ? [...text] : [];
  if (characters.length <= longest) return {shown: text, more: 0};
  return {shown: characters.slice(0, longest).join(""), more: characters.length - longest};
}

/** Pieces of a text, in order: `{ kind: "plain" | "space" | "newline" | "tab" | "code", text, shown }`. */
function pieces(text) {
  return text.split(PIECES).flatMap((part, index) => {
    if (part === "") return [];
    if (index % 2 === 0) return [{kind: "plain", text: part, shown: part}];
    const kind = {" ": "space", "\n": "newline", "\t": "tab"}[part[0]];
    if (kind === undefined) return [{kind: "code", text: part, shown: codeOf(part)}];
    const mark = MARKS[part[0]];
    return [{kind, text: part, shown: part.length > LONGEST_RUN ? `${mark}×${part.length}` : mark.repeat(part.length)}];
  });
}

/** A token in a line of characters that can all be seen: "␣def", "⏎␣×8", "⟨U+202E⟩". */
export function visible(text, longest = 60) {
  const {shown, more} = cut(text, longest);
  return (
    pieces(shown)
      .map(piece => piece.shown)
      .join("") + (more ? `…+${more}` : "")
  );
}

/** A sentence, a name or a label: only what cannot be seen is marked. */
export function prose(text, longest = 400) {
  const {shown, more} = cut(text.replace(/\s+/gu, " "), longest);
  const marked = shown.split(NOT_PROSE).map((part, index) => (index % 2 ? codeOf(part) : part));
  return marked.join("") + (more ? "…" : "");
}

export const tokenChip = (text, attributes = {}) =>
  h("code", {...attributes, class: `token ${attributes.class ?? ""}`}, visible(text));

/** A latent's label, or another text for people, apart from what stands around. */
export const proseNode = (text, attributes = {}) => h("bdi", attributes, prose(text));

const LONGEST_IN_TEXT = 160;

/**
 * What a token looks like in running text. Single spaces stay spaces, with a dot behind them, so that text can be read
 * and copied; `lines`: whitespace is laid out as it is written.
 */
export function tokenNodes(text, lines) {
  const {shown, more} = cut(text, LONGEST_IN_TEXT);
  const nodes = pieces(shown).map(piece => pieceNode(piece, lines));
  if (more) nodes.push(h("span.unprinted", `…+${more} characters`));
  return nodes;
}

function pieceNode(piece, lines) {
  if (piece.kind === "plain") return piece.text;
  const length = piece.text.length;
  if (piece.kind === "space" && (lines || length <= LONGEST_RUN)) return h("span.space", piece.text);
  if (piece.kind === "newline" && lines) return [...piece.text].map(each => [h("span.unprinted", "⏎"), each]);
  return h("span.unprinted", piece.shown);
}
