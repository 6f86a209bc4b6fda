// Runs before the first paint, so that the page never flashes in the wrong theme.
// A classic script: modules run too late.
try {
  document.documentElement.dataset.theme = localStorage.getItem("chatkit-theme") || "auto";
} catch {
  document.documentElement.dataset.theme = "auto";
}
