// Records from the files that `monosem view --export` writes; searching happens here, in the browser.

import { fetchJson, remembering, SourceError, unlessAborted } from "./fetching.js";

const MISSING = "A file of this exported site could not be fetched. Is its server running, and is data/ there?";
// Chunks of the search that are kept: a hundred thousand latents, some tens of megabytes.
const KEPT_CHUNKS = 50;
const KEPT_LATENT_FILES = 3;

const ORDERS = {
  match: (a, b) => b.score - a.score || a.latent - b.latent,
  density: (a, b) => b.density - a.density || a.latent - b.latent,
  rare: (a, b) => a.density - b.density || a.latent - b.latent,
  largest: (a, b) => (b.largest ?? 0) - (a.largest ?? 0) || a.latent - b.latent,
  number: (a, b) => a.latent - b.latent,
};

const load = (path, signal) => fetchJson(`data/${path}.json`, { signal }, MISSING);

/** The first of a latent's tokens that holds a text, as the reason that it was found. */
function tokenReason(kind, wanted, pairs) {
  const pair = pairs.find(([text]) => text.toLowerCase().includes(wanted.toLowerCase()));
  return pair ? { kind, text: pair[0], value: pair[1] } : null;
}

function textReason(kind, wanted, texts) {
  const text = texts.find((each) => each?.toLowerCase().includes(wanted.toLowerCase()));
  return text === undefined ? null : { kind, text, value: null };
}

/** Why a latent is found: a reason for each condition; null where one does not hold. */
export function reasons(entry, wanted, near) {
  const why = [];
  for (const kind of ["fires", "promotes", "suppresses"]) {
    if (wanted[kind]) why.push(tokenReason(kind, wanted[kind], entry[kind]));
  }
  if (wanted.pattern) why.push(textReason("pattern", wanted.pattern, entry.patterns));
  if (wanted.explanation) why.push(textReason("explanation", wanted.explanation, [entry.explanation]));
  if (near) {
    const similarity = near.get(entry.latent);
    why.push(similarity === undefined ? null : { kind: "like", text: String(wanted.like), value: similarity });
  }
  const low = wanted.low ? Number(wanted.low) : 0;
  const high = wanted.high ? Number(wanted.high) : 1;
  return why.includes(null) || entry.density < low || entry.density > high ? null : why;
}

/** The result for an entry with its reasons, and what it is ordered by. */
function found({ latent, label, density, largest }, why) {
  return { latent, label, density, largest, why, score: Math.abs(why[0]?.value ?? 0) };
}

/** The latents that another one names as near, with their similarity; null where none is asked for. */
async function nearTo(wanted, size, chunk, total) {
  if (!wanted.like) return null;
  const number = Number(wanted.like);
  if (!Number.isInteger(number) || number < 0 || number >= total) {
    throw new SourceError(`like=${wanted.like} is no latent’s number; give one from 0 to ${total - 1}.`, 400);
  }
  const { first, latents } = await chunk(Math.floor(number / size));
  return new Map(latents[number - first]?.like ?? []);
}

/** Searches chunk by chunk; `progress(done, total)` is told after each. */
async function search(wanted, { signal, progress }, contents, chunk, total) {
  const { size, files } = contents.search;
  const near = await unlessAborted(nearTo(wanted, size, chunk, total), signal);
  const results = [];
  for (let file = 0; file < files; file += 1) {
    const { latents } = await unlessAborted(chunk(file), signal);
    for (const entry of latents) {
      const why = reasons(entry, wanted, near);
      if (why) results.push(found(entry, why));
    }
    progress?.(file + 1, files);
  }
  results.sort(ORDERS[wanted.order || "match"] ?? ORDERS.match);
  const offset = Number(wanted.offset ?? 0);
  const end = offset + Number(wanted.limit ?? 50);
  return { latents: results.slice(offset, end), more: results.length > end };
}

/** Tokens that hold a text, shortest first; of the first chunk's latents, for the whole vocabulary is not exported. */
function tokensIn({ latents }, wanted) {
  const texts = latents.flatMap(({ fires, promotes }) => [...fires, ...promotes].map(([text]) => text));
  const found = [...new Set(texts)].filter((text) => text.toLowerCase().includes(wanted.toLowerCase()));
  return found
    .sort((a, b) => a.length - b.length)
    .slice(0, 20)
    .map((text) => ({ token: null, text }));
}

const SIMILARITY = (row) => row.nearest[0]?.similarity ?? 0;
const COMPARED = {
  similar: (a, b) => SIMILARITY(b) - SIMILARITY(a),
  different: (a, b) => SIMILARITY(a) - SIMILARITY(b),
  number: (a, b) => a.latent - b.latent,
};

/** All rows of a side, from the chunks that compare.json counts. */
async function comparedRows(side) {
  const { run, other, sides } = await load("compare");
  const files = Array.from({ length: sides[side].files }, (_, number) => load(`compare/${side}/${number}`));
  return { run, other, rows: (await Promise.all(files)).flatMap(({ latents }) => latents) };
}

async function compare({ side = "run", order = "similar", offset = 0, limit = 50 }, sides) {
  const { run, other, rows } = await sides(side);
  const ordered = rows.toSorted(COMPARED[order] ?? COMPARED.similar);
  const end = Number(offset) + Number(limit);
  const latents = ordered.slice(Number(offset), end);
  return { run, other, of: rows.length, latents, more: rows.length > end };
}

function latentRecords(contents, run) {
  const file = remembering((number) => load(`latents/${number}`), KEPT_LATENT_FILES);
  return async (number) => {
    const [{ latents: kept }, told] = await Promise.all([contents(), run()]);
    const total = told.run.n_latents;
    if (!(number >= 0 && number < total)) {
      throw new SourceError(`latent=${number} is not one of 0 … ${total - 1}; give a number below ${total}.`, 404);
    }
    const { first, latents } = await file(Math.floor(number / kept.size));
    return latents[number - first];
  };
}

export function exportedSource() {
  const once = remembering((path) => load(path));
  const run = () => once("run");
  const contents = () => once("contents");
  const chunk = remembering((number) => load(`search/${number}`), KEPT_CHUNKS);
  const latent = latentRecords(contents, run);
  const sides = remembering(comparedRows);
  const refuse = async () => {
    throw new SourceError("This is an exported site: it has no model to run. Start “monosem view RUN” for it.", 0);
  };
  return {
    isStatic: true,
    run,
    scatter: (signal) => unlessAborted(once("scatter"), signal),
    latent: (number, signal) => unlessAborted(latent(number), signal),
    label: async (number, signal) => {
      const { size } = (await contents()).search;
      const { first, latents } = await unlessAborted(chunk(Math.floor(number / size)), signal);
      return latents[number - first].label;
    },
    search: async (wanted, options = {}) => {
      const [held, told] = await Promise.all([contents(), run()]);
      return search(wanted, options, held, chunk, told.run.n_latents);
    },
    tokens: async (text, signal) => tokensIn(await unlessAborted(chunk(0), signal), text),
    prompt: refuse,
    steer: refuse,
    compare: (wanted, { signal } = {}) => unlessAborted(compare(wanted, sides), signal),
  };
}
