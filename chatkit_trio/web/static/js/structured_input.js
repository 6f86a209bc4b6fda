// Questions the server asks: choices with a free answer of one's own, and free text.

import { html, useState } from "../vendor/vendor.js";
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

function Question(props) {
  return html`<${props.input.type === "freeform" ? Freeform : MultipleChoice} ...${props} />`;
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

function Pending({ item, conversation, phase }) {
  const [answers, setAnswers] = useState({});
  const busy = phase !== "idle";
  const given = item.inputs.some(({ id }) => valuesOf(answers[id] ?? noAnswer).length > 0);
  const submit = (event) => {
    event.preventDefault();
    if (given && !busy) conversation.answer(item.id, submission(item.inputs, answers));
  };
  const skip = () => conversation.answer(item.id, { status: "skipped", answers: {} });
  return html`<form class="card structured" data-testid="structured-input" onSubmit=${submit}>
    <h2>${item.inputs.length > 1 ? words.titleMany : words.title}</h2>
    ${item.inputs.map((input) => html`<${Question} key=${input.id} input=${input}
      name=${`${item.id}-${input.id}`} answer=${answers[input.id] ?? noAnswer}
      onAnswer=${(answer) => setAnswers((all) => ({ ...all, [input.id]: answer }))} />`)}
    <div class="card-buttons">
      <button type="button" class="button is-quiet" data-testid="structured-skip" disabled=${busy}
        onClick=${skip}>${words.skip}</button>
      <button type="submit" class="button is-primary" data-testid="structured-submit"
        disabled=${busy || !given}>${words.submit}</button>
    </div>
  </form>`;
}

export function StructuredInput(props) {
  return html`<${props.item.status === "pending" ? Pending : Answered} ...${props} />`;
}
