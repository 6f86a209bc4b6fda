// Questions the server asks: choices with a free answer of one's own, and free text.

import { returnToComposer } from "./composer.js";
import { html, useRef, useState } from "../vendor/vendor.js";
import { strings } from "./strings.js";

const words = strings.structured;
const noAnswer = { values: [], other: false, custom: "" };

function valuesOf(answer) {
  const custom = answer.other ? answer.custom.trim() : "";
  return custom ? [...answer.values, custom] : answer.values;
}

function submission(inputs, answers) {
  const entries = inputs.map(({ id }) => {
    const values = valuesOf(answers[id] ?? noAnswer);
    return [id, values.length ? { values } : { values: [], skipped: true }];
  });
  return { status: "answered", answers: Object.fromEntries(entries) };
}

function Choice({ type, name, label, checked, onChange }) {
  return html`<label class="choice">
    <input type=${type} name=${name} checked=${checked} onChange=${onChange} /><span>${label}</span>
  </label>`;
}

function toggle(values, value) {
  return values.includes(value) ? values.filter((each) => each !== value) : [...values, value];
}

function MultipleChoice({ input, name, answer, onAnswer }) {
  const many = input.multiple === true;
  const type = many ? "checkbox" : "radio";
  const choose = (value) =>
    onAnswer(many
      ? { ...answer, values: toggle(answer.values, value) }
      : { ...noAnswer, custom: answer.custom, values: [value] });
  const chooseOther = () =>
    onAnswer(many ? { ...answer, other: !answer.other } : { ...answer, values: [], other: true });
  const write = (event) => onAnswer({
    ...answer, other: true, custom: event.currentTarget.value, values: many ? answer.values : [],
  });
  return html`<fieldset>
    <legend>${input.question}</legend>
    ${many ? html`<p class="question-note">${words.chooseMany}</p>` : null}
    ${input.options.map(({ value }) => html`<${Choice} key=${value} type=${type} name=${name}
      label=${value} checked=${answer.values.includes(value)} onChange=${() => choose(value)} />`)}
    <div class="choice-other">
      <${Choice} type=${type} name=${name} label=${words.other} checked=${answer.other} onChange=${chooseOther} />
      ${answer.other ? html`<input class="field" value=${answer.custom} placeholder=${words.otherPlaceholder}
        aria-label=${words.otherPlaceholder} onInput=${write} />` : null}
    </div>
  </fieldset>`;
}

function Freeform({ input, name, answer, onAnswer }) {
  const write = (event) => onAnswer({ ...noAnswer, other: true, custom: event.currentTarget.value });
  return html`<div class="freeform">
    <label for=${name}>${input.question}</label>
    ${input.description ? html`<p class="question-note">${input.description}</p>` : null}
    <textarea id=${name} class="field" rows="3" value=${answer.custom}
      placeholder=${words.freeform} onInput=${write}></textarea>
  </div>`;
}

function Question({ isMissed, ...props }) {
  return html`<div class="question"><${props.input.type === "freeform" ? Freeform : MultipleChoice} ...${props} />
    ${isMissed ? html`<p class="question-missed">${words.noAnswer}</p>` : null}</div>`;
}

function Answered({ item }) {
  return html`<div class="card structured is-answered" data-testid="structured-input">
    <dl>${item.inputs.map(({ id, question, answer }) => html`<div key=${id}>
      <dt>${question}</dt>
      <dd class=${answer?.values?.length ? "" : "is-skipped"}>
        ${answer?.values?.length ? answer.values.join(", ") : words.skipped}</dd>
    </div>`)}</dl>
  </div>`;
}

// The protocol has no required questions. What offers choices wants one; words of one's own may be
// left out beside them, as the comment on an approval.
function expected(inputs) {
  const choices = inputs.filter(({ type }) => type !== "freeform");
  return choices.length > 0 ? choices : inputs;
}

function Pending({ item, conversation, phase }) {
  const [answers, setAnswers] = useState(() => conversation.answers[item.id] ?? {});
  const [isTold, setIsTold] = useState(false); // of questions without an answer
  const form = useRef(null);
  const busy = phase !== "idle";
  const isEmpty = ({ id }) => valuesOf(answers[id] ?? noAnswer).length === 0;
  const given = !item.inputs.every(isEmpty);
  const missing = expected(item.inputs).filter(isEmpty);
  const nameOf = ({ id }) => `${item.id}-${id}`;
  const isMissed = (input) => isTold && missing.includes(input);
  const change = ({ id }, answer) => {
    // Not those that are drawn: there may be a newer one already.
    conversation.keepAnswers(item.id, { ...conversation.answers[item.id], [id]: answer });
    setAnswers(conversation.answers[item.id]);
  };
  const submit = (event) => {
    event.preventDefault();
    if (!given || busy) return;
    if (missing.length === 0 || isTold) return give(submission(item.inputs, answers));
    setIsTold(true);
    const name = CSS.escape(nameOf(missing[0]));
    form.current.querySelector(`[name="${name}"], #${name}`).focus();
  };
  const give = (submitted) => {
    conversation.answer(item.id, submitted);
    returnToComposer(); // the form goes away
  };
  const skip = () => give({ status: "skipped", answers: {} });
  return html`<form ref=${form} class="card structured" data-testid="structured-input" data-item-id=${item.id} onSubmit=${submit}>
    <h2>${item.inputs.length > 1 ? words.titleMany : words.title}</h2>
    ${item.inputs.map((input) => html`<${Question} key=${input.id} input=${input}
      name=${nameOf(input)} isMissed=${isMissed(input)} answer=${answers[input.id] ?? noAnswer}
      onAnswer=${(answer) => change(input, answer)} />`)}
    ${isTold && missing.length > 0 ? html`<p class="question-missed" role="alert">${words.unanswered(missing.length)}</p>` : null}
    <div class="card-buttons">
      <button type="button" class="button is-quiet" data-testid="structured-skip" disabled=${busy}
        onClick=${skip}>${words.skip}</button>
      <button type="submit" class="button is-primary" data-testid="structured-submit"
        disabled=${busy || !given}>${words.submit}</button>
    </div>
  </form>`;
}

/** What the user has talked past isn't asked any more. */
export function StructuredInput(props) {
  const isAsked = props.item.status === "pending" && !props.isPast;
  return html`<${isAsked ? Pending : Answered} ...${props} />`;
}
