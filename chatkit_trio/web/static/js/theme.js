// Light, dark, or as the system says; the choice is kept in the browser.
// theme_boot.js sets it before the first paint.

const KEY = "chatkit-theme";
const ORDER = ["auto", "light", "dark"];

export function currentTheme() {
  return document.documentElement.dataset.theme ?? "auto";
}

/** Goes on to the next of the three, and returns it. */
export function nextTheme() {
  const next = ORDER[(ORDER.indexOf(currentTheme()) + 1) % ORDER.length];
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // A browser that keeps nothing still gets the theme for this visit.
  }
  return next;
}
