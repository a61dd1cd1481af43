// Records from the files that `monosem view --export` writes; searching happens here, in the browser.

import {fetchJson, remembering, SourceError, unlessAborted} from "./fetching.js";

const MISSING = "A file of this exported site could not be fetched. Is its server running, and is data/ there?";
// Chunks of the search that are kept: a hundred thousand latents, some tens of megabytes.
const KEPT_CHUNKS = 50;
const KEPT_LATENT_FILES = 3;

// What latents are ordered by; equal ones by number.
const ORDERS = {
  match: ({why}) => -Math.abs(why[0]?.value ?? 0),
  density: ({density}) => -density,
  rare: ({density}) => density,
  largest: ({largest}) => -(largest ?? 0),
  number: () => 0,
};
const similarity = ({nearest}) => nearest[0]?.similarity ?? 0;
const COMPARED = {similar: row => -similarity(row), different: similarity, number: () => 0};

function paged(rows, key, {offset = 0, limit = 50}) {
  const ordered = rows.toSorted((a, b) => key(a) - key(b) || a.latent - b.latent);
  const [start, end] = [Number(offset ?? 0), Number(offset ?? 0) + limit];
  return {latents: ordered.slice(start, end), more: rows.length > end};
}

const load = (path, signal) => fetchJson(`data/${path}.json`, {signal}, MISSING);

const holds = (text, wanted) => text.toLowerCase().includes(wanted.toLowerCase());

/** The first of a latent's `[text, value]` that holds what is wanted, as the reason that it was found. */
function reason(kind, wanted, pairs) {
  const pair = pairs.find(([text]) => holds(text, wanted));
  return pair ? {kind, text: pair[0], value: pair[1] ?? null} : null;
}

/** Why a latent is found: a reason for each condition; null where one does not hold. */
function reasons(entry, wanted, near) {
  const why = [];
  const {fires, promotes, suppresses} = entry;
  const pattern = entry.patterns.map(text => [text]);
  const explanation = entry.explanation === null ? [] : [[entry.explanation]];
  for (const [kind, pairs] of Object.entries({fires, promotes, suppresses, pattern, explanation})) {
    if (wanted[kind]) why.push(reason(kind, wanted[kind], pairs));
  }
  if (near) {
    const similarity = near.get(entry.latent);
    why.push(similarity === undefined ? null : {kind: "like", text: String(wanted.like), value: similarity});
  }
  const low = wanted.low ? Number(wanted.low) : 0;
  const high = wanted.high ? Number(wanted.high) : 1;
  return why.includes(null) || entry.density < low || entry.density > high ? null : why;
}

/** The latents that another one names as near, with their similarity; null where none is asked for. */
async function nearTo(wanted, size, chunk, total) {
  if (!wanted.like) return null;
  const number = Number(wanted.like);
  if (!Number.isInteger(number) || number < 0 || number >= total) {
    throw new SourceError(`like=${wanted.like} is no latent’s number; give one from 0 to ${total - 1}.`, 400);
  }
  const {first, latents} = await chunk(Math.floor(number / size));
  return new Map(latents[number - first]?.like ?? []);
}

/** Searches chunk by chunk; `progress(done, total)` is told after each. */
async function search(wanted, {signal, progress}, contents, chunk, total) {
  const {size, files} = contents.search;
  const near = await unlessAborted(nearTo(wanted, size, chunk, total), signal);
  const found = [];
  for (let file = 0; file < files; file += 1) {
    const {latents} = await unlessAborted(chunk(file), signal);
    for (const entry of latents) {
      const why = reasons(entry, wanted, near);
      if (why) found.push({...entry, why});
    }
    progress?.(file + 1, files);
  }
  return paged(found, ORDERS[wanted.order || "match"] ?? ORDERS.match, wanted);
}

async function comparedRows(side) {
  const {run, other, sides} = await load("compare");
  const files = Array.from({length: sides[side].files}, (_, number) => load(`compare/${side}/${number}`));
  return {run, other, rows: (await Promise.all(files)).flatMap(({latents}) => latents)};
}

async function compare(wanted, sides) {
  const {run, other, rows} = await sides(wanted.side ?? "run");
  return {run, other, of: rows.length, ...paged(rows, COMPARED[wanted.order] ?? COMPARED.similar, wanted)};
}

function latentRecords(contents, run) {
  const file = remembering(number => load(`latents/${number}`), KEPT_LATENT_FILES);
  return async number => {
    const [{latents: kept}, told] = await Promise.all([contents(), run()]);
    const total = told.run.n_latents;
    if (!(number >= 0 && number < total)) {
      throw new SourceError(`latent=${number} is not one of 0 … ${total - 1}; give a number below ${total}.`, 404);
    }
    const {first, vocabulary, latents} = await file(Math.floor(number / kept.size));
    const record = latents[number - first];
    // The file has the text of each token once.
    const examples = record.examples.map(each => ({...each, texts: each.ids.map(id => vocabulary[id])}));
    return {...record, examples};
  };
}

export function exportedSource() {
  const once = remembering(path => load(path));
  const run = () => once("run");
  const contents = () => once("contents");
  const chunk = remembering(number => load(`search/${number}`), KEPT_CHUNKS);
  const latent = latentRecords(contents, run);
  const sides = remembering(comparedRows);
  const refuse = async () => {
    throw new SourceError("This is an exported site: it has no model to run.", 0);
  };
  return {
    isStatic: true,
    run,
    scatter: signal => unlessAborted(once("scatter"), signal),
    latent: (number, signal) => unlessAborted(latent(number), signal),
    label: async (number, signal) => {
      const {size} = (await contents()).search;
      const {first, latents} = await unlessAborted(chunk(Math.floor(number / size)), signal);
      return latents[number - first].label;
    },
    search: async (wanted, options = {}) => {
      const [held, told] = await Promise.all([contents(), run()]);
      return search(wanted, options, held, chunk, told.run.n_latents);
    },
    prompt: refuse,
    steer: refuse,
    compare: (wanted, {signal} = {}) => unlessAborted(compare(wanted, sides), signal),
  };
}
