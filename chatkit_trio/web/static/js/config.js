// What the server tells the page through <meta name="chatkit-..."> tags, read once.

function meta(name, fallback) {
  return document.querySelector(`meta[name="${name}"]`)?.content ?? fallback;
}

// Starter prompts: a JSON list of { label, prompt?, icon? }.
function promptsFrom(text) {
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    console.warn("chatkit-prompts is not JSON; the built-in starter prompts are used");
    return null;
  }
}

export const config = Object.freeze({
  endpoint: new URL(meta("chatkit-endpoint", "chatkit"), document.baseURI).href.replace(/\/$/, ""),
  attachments: meta("chatkit-attachments", "off") === "on",
  dictation: meta("chatkit-dictation", "off") === "on",
  appName: meta("application-name", "chatkit_trio"),
  greeting: meta("chatkit-greeting", ""),
  prompts: promptsFrom(meta("chatkit-prompts", "")),
});
