// What is kept in the browser. Without storage - it may be full, or forbidden - things live as long
// as the page.

/** Returns what is kept under a key, or null. */
export function readKept(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** Returns the keys of all that is kept. */
export function keptKeys() {
  try {
    return Object.keys(localStorage);
  } catch {
    return [];
  }
}

// When the newest item was written of those that are kept under a key.
const newestIn = (key) => Object.values(readKept(key) ?? {}).flat(2).map((item) => item?.created_at ?? "").sort().at(-1) ?? "";

// Earlier versions are the largest of what is kept, and can be done without.
function makeRoom(key) {
  const others = keptKeys().filter((each) => each.startsWith("chatkit-versions:") && each !== key);
  const oldest = others.sort((a, b) => (newestIn(a) < newestIn(b) ? -1 : 1)).at(0);
  if (oldest) localStorage.removeItem(oldest);
  return Boolean(oldest);
}

function write(key, words) {
  try {
    localStorage.setItem(key, words);
  } catch (error) {
    if (!/quota/i.test(error.name) || !makeRoom(key)) throw error; // Firefox has had a name of its own
    write(key, words);
  }
}

/** Keeps a value; null forgets it. `what` says what it is, in case that it can't be kept. */
export function keep(key, value, what) {
  try {
    if (value === null) localStorage.removeItem(key);
    else write(key, JSON.stringify(value));
  } catch (error) {
    console.warn(`${what} can't be kept: ${error.message}`);
  }
}
