// A collar tag at the top of the page: shows effects of the server, and names that are tried on.

const style = document.createElement("style");
style.textContent = `
  .tag-strip { position: fixed; top: 0.6rem; right: 1.25rem; z-index: 5; display: flex; gap: 0.5rem;
    align-items: center; padding: 0.4rem 0.9rem; border-radius: 99px; font-size: 0.875rem;
    background: var(--accent-soft); color: var(--accent); }
  .tag-strip:empty { display: none; }
  @media (max-width: 48rem) {
    .tag-strip { top: auto; bottom: 5.25rem; right: 50%; translate: 50% 0; white-space: nowrap; }
  }`;
document.head.append(style);

const strip = document.createElement("div");
strip.className = "tag-strip";
strip.setAttribute("role", "status");
document.body.append(strip);

function show(text) {
  strip.textContent = text;
}

// An action with handler "client" comes here and to nobody else.
(window.chatkitActions ??= {})["name.try"] = ({ action }) => {
  show(`“${action.payload.name}!” … one ear turns.`);
};

window.chatkitEffects ??= {};
window.chatkitEffects.cat_mood = ({ cat, mood }) => show(`${cat} is ${mood}`);
window.chatkitEffects.cat_named = ({ name }) => show(`${name}, at your service`);
