// Components that are drawn again only when one of their properties is another value.

import { Component, h } from "../vendor/vendor.js";

function differs(a, b) {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].some((key) => a[key] !== b[key]);
}

/** Wraps a function component so that equal properties cost nothing. */
export function pure(component) {
  return class extends Component {
    shouldComponentUpdate(next, nextState) {
      return differs(this.props, next) || this.state !== nextState;
    }

    render(props) {
      return h(component, props);
    }
  };
}
