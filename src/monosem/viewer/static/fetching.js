// Fetching records: what goes wrong becomes a sentence, and what was fetched is kept for a while.

/** An error as a sentence for the reader. */
export class SourceError extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

const GONE = "The viewer’s server does not answer. Is “monosem view” still running?";
const REMEMBERED = 64;

/** Fetch JSON; an answer that is none, or an error, becomes a sentence. */
export async function fetchJson(path, options, whenGone = GONE) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new SourceError(whenGone, 0);
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && answer !== null) return answer;
  const sentence = answer?.error ?? `${path} was answered with status ${response.status} and no sentence.`;
  throw new SourceError(String(sentence), response.status);
}

/** Keeps the last results of a function of one argument; what fails is asked for again. */
export function remembering(load, most = REMEMBERED) {
  const kept = new Map();
  return key => {
    if (!kept.has(key)) {
      const promise = load(key);
      promise.catch(() => kept.delete(key));
      kept.set(key, promise);
      if (kept.size > most) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  };
}

/** The promise, unless the signal comes first: then an AbortError. Others may go on waiting for it. */
export function unlessAborted(promise, signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = () => reject(new DOMException("outdated", "AbortError"));
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, {once: true});
    promise.then(resolve, reject);
  });
}
