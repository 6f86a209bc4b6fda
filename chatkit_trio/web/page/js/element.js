// <chatkit-trio>: one chat in a page of any kind. Options, methods and events have ChatKit.js's
// names, so that code written for <openai-chatkit> changes the tag alone.

import css from "../css/chat.css";
import tokens from "../css/tokens.css";
import { newChat } from "./chat.js"; // which the build makes of that module

const sheet = new CSSStyleSheet();
sheet.replaceSync(tokens + css);

const METHODS = [
  "focusComposer", "setThreadId", "sendUserMessage", "setComposerValue", "sendCustomAction",
  "showHistory", "hideHistory", "fetchUpdates", "stop",
];

class ChatKitTrio extends HTMLElement {
  #root = this.attachShadow({ mode: "open" });
  #given = null;
  #url = null; // the attribute, as long as it is all that was given
  #chat = null; // its own, once it is shown
  #starting = Promise.withResolvers(); // settled when the chat can do what it is asked
  #isShown = false;
  #work = Promise.resolve(); // one change after another

  constructor() {
    super();
    this.#root.adoptedStyleSheets = [sheet];
  }

  static observedAttributes = ["url"];

  connectedCallback() {
    this.#takeEarly();
    this.#takeUrl();
  }

  attributeChangedCallback() {
    if (this.isConnected) this.#takeUrl();
  }

  // What was set before this class was there hides the setter.
  #takeEarly() {
    if (!Object.hasOwn(this, "options")) return;
    const { options } = this;
    delete this.options;
    this.options = options;
  }

  #takeUrl() {
    const url = this.getAttribute("url");
    const isNews = Boolean(url) && url !== this.#url && (this.#url !== null || this.#given === null);
    if (isNews) {
      this.#url = url;
      this.#given = { api: { url } };
    }
    this.#update({ anew: isNews });
  }

  // An element that is moved is taken out and put in again at once: its chat goes on.
  disconnectedCallback() {
    setTimeout(() => this.#update());
  }

  /** Takes a whole set of options; those that aren't given are the defaults. */
  setOptions(given) {
    this.#url = null;
    this.#given = given;
    this.#update({ anew: true });
  }

  set options(given) {
    this.setOptions(given);
  }

  #update({ anew = false } = {}) {
    this.#work = this.#work.then(() => this.#apply(anew)).catch((error) => {
      console.error(error);
      this.dispatchEvent(new CustomEvent("chatkit.error", { detail: { error }, bubbles: true, composed: true }));
    });
  }

  async #apply(anew) {
    if (this.isConnected && !this.#isShown && this.#given) {
      this.#chat ??= newChat();
      await this.#chat.start(this, this.#root, this.#given);
      this.#isShown = true;
      this.#starting.resolve();
    } else if (!this.isConnected && this.#isShown) {
      this.#isShown = false;
      this.#chat.end();
    } else if (anew && this.#isShown) {
      await this.#chat.setOptions(this.#given);
    }
  }

  async #call(name, given) {
    await this.#starting.promise;
    return this.#chat.methods[name](...given);
  }

  static {
    for (const name of METHODS) {
      this.prototype[name] = function (...given) {
        return this.#call(name, given);
      };
    }
  }
}

if (!customElements.get("chatkit-trio")) customElements.define("chatkit-trio", ChatKitTrio);
