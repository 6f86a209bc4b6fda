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

/** Keeps a value; null forgets it. `what` says what it is, in case that it can't be kept. */
export function keep(key, value, what) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    console.warn(`${what} can't be kept: ${error.message}`);
  }
}
