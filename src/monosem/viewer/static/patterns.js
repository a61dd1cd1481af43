// N2G patterns in a context: where they say that a latent should be active, and how that agrees with where it is.

/** Of those that match, that with the most literal tokens predicts; then one with a start mark; then the longest. */
function isMoreSpecific(pattern, other) {
  const rank = ({tokens, at_start: atStart}) => [
    tokens.filter(token => token !== null).length,
    Number(atStart),
    tokens.length,
  ];
  const [a, b] = [rank(pattern), rank(other)];
  const differs = a.findIndex((value, i) => value !== b[i]);
  return differs >= 0 && a[differs] > b[differs];
}

function matches({tokens, at_start: atStart}, ids, end, first) {
  const begin = end - tokens.length + 1;
  if (begin < first || (atStart && begin !== first)) return false;
  return tokens.every((token, i) => token === null || token === ids[begin + i]);
}

/** Position → the pattern that predicts there. Patterns never reach before the text's first token. */
export function predictions(patterns, ids, first) {
  const found = new Map();
  for (let end = first; end < ids.length; end += 1) {
    for (const pattern of patterns) {
      if (matches(pattern, ids, end, first) && (!found.has(end) || isMoreSpecific(pattern, found.get(end))))
        found.set(end, pattern);
    }
  }
  return found;
}

export const HIT = "hit";
export const MISS = "miss";
export const FALSE_ALARM = "false alarm";

/**
 * Position → `{ verdict, pattern }` of an example: predicted and active, active alone, predicted alone. `first` is the
 * place of a block's first token of text.
 */
export function judged(patterns, example, first) {
  const predicted = predictions(patterns, example.ids, first);
  const active = new Set(example.activations.map(([position]) => position));
  const verdicts = new Map();
  for (const position of active) verdicts.set(position, {verdict: MISS, pattern: null});
  for (const [position, pattern] of predicted)
    verdicts.set(position, {verdict: active.has(position) ? HIT : FALSE_ALARM, pattern});
  return verdicts;
}
