// Components whose failure hurts nobody else: what they can't draw is shown as text.

import { Component, h, html } from "../vendor/vendor.js";
import { copyText } from "./clipboard.js";
import { plainText } from "./plain_text.js";
import { strings } from "./strings.js";

const MOST_CHARACTERS = 100_000; // of a text that is shown; the copy button takes all of it

/** What stands in for something that can't be drawn: its words, and a note. */
export function Undrawable({ value }) {
  const text = plainText(value);
  const shown = text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text;
  return html`<div class="undrawable" data-testid="undrawable">
    <p class="undrawable-note"><span>${strings.undrawable}</span>
      ${text ? html`<button type="button" class="button is-small is-quiet" onClick=${() => copyText(text)}>
        ${strings.copy}</button>` : null}</p>
    ${text ? html`<div class="undrawable-text" tabindex="0">${shown}</div>` : null}
  </div>`;
}

/** Stands around the whole page: when nothing else helps, there are words and a way on. */
export class LastResort extends Component {
  state = { failed: false };

  componentDidCatch(error) {
    console.error(error);
    this.setState({ failed: true });
  }

  render({ children }, { failed }) {
    if (!failed) return children;
    return html`<div class="last-resort" role="alert"><p>${strings.lastResort}</p>
      <button type="button" class="button" onClick=${() => location.reload()}>${strings.reloadPage}</button>
    </div>`;
  }
}

function differs(a, b) {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].some((key) => a[key] !== b[key]);
}

/**
 * Wraps a function component so that equal properties cost nothing, and so that its failures stay
 * in it. When it throws, or anything in it does, the words of its property `named` are shown until
 * that property is another value: what streams may well be drawn once there is more of it.
 */
export function guarded(component, named) {
  return class extends Component {
    state = { failed: null };

    shouldComponentUpdate(next, nextState) {
      return differs(this.props, next) || this.state !== nextState;
    }

    componentDidCatch(error) {
      console.warn(`A ${named} can't be drawn: ${error?.message}`);
      this.setState({ failed: { value: this.props[named] } });
    }

    render(props, { failed }) {
      const value = props[named];
      return failed && failed.value === value ? h(Undrawable, { value }) : h(component, props);
    }
  };
}
