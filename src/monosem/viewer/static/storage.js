// A few choices of the reader's that outlast a visit, where the browser lets them.

const visit = new Map();

export function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return visit.get(key) ?? null;
  }
}

/** Remember a choice; null forgets it. */
export function remember(key, choice) {
  try {
    if (choice === null) localStorage.removeItem(key);
    else localStorage.setItem(key, choice);
  } catch {
    visit.set(key, choice); // storage is refused: for this visit only
  }
}
