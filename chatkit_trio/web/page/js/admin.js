// The page of those who run a server: live turns with their tasks, the last ends, and all nodes.

import { html, render, useEffect, useRef, useState } from "../vendor/vendor.js";

const PLACE = document.querySelector("meta[name=admin-place]").content;
const KEY = "chatkit-admin-token";

// --- What the server is asked ----------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, token, method = "GET") {
  const response = await fetch(`${PLACE}/${path}`, {
    method,
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
  });
  const said = await response.json().catch(() => null);
  if (response.ok) return said;
  throw new Refused(response.status, said?.error?.message ?? `The server answers with ${response.status}.`);
}

const about = (node, turn) => `node=${encodeURIComponent(node)}&turn=${encodeURIComponent(turn)}`;

/** Asks again and again, not while nobody looks; returns [what was said last, what went wrong]. */
function useRepeated(path, token, milliseconds, onRefused) {
  const [known, setKnown] = useState([null, null]);
  useEffect(() => {
    let isWanted = true;
    let timer = null;
    const look = async () => {
      if (document.visibilityState === "visible") {
        try {
          const said = await ask(path, token);
          if (isWanted) setKnown([said, null]);
        } catch (error) {
          if (isWanted && error.status === 401) onRefused();
          if (isWanted) setKnown(([before]) => [error.status === 404 ? null : before, error.message]);
        }
      }
      if (isWanted) timer = setTimeout(look, milliseconds);
    };
    look();
    return () => {
      isWanted = false;
      clearTimeout(timer);
    };
  }, [path, token]);
  return known;
}

// --- Words -----------------------------------------------------------------------------------------

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1000).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

const short = (id) => (id.length > 14 ? `${id.slice(0, 9)}…${id.slice(-4)}` : id);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const isGood = (reason) => reason === "finished";
const isBad = (reason) => ["failed", "crashed", "refused"].includes(reason);
const toneOf = (reason) => (isGood(reason) ? "good" : isBad(reason) ? "bad" : "cut");

const Reason = ({ reason }) => html`<span class=${`reason is-${toneOf(reason)}`}>${reason}</span>`;
const Id = ({ id }) => html`<code title=${id}>${short(id)}</code>`;

// --- Tasks -----------------------------------------------------------------------------------------

const isOurs = (place) => place.module.startsWith("chatkit_trio");

function Places({ places }) {
  if (places.length === 0) return null;
  return html`<ol class="places">
    ${places.map((place) => html`<li class=${isOurs(place) ? "is-ours" : ""}>
      <code>${place.function}</code> <small>${place.module}:${place.line}</small></li>`)}
  </ol>`;
}

function scopeWords(nursery) {
  return [
    nursery.is_cancelled ? "cancelled" : null,
    nursery.is_shielded ? "shielded" : null,
    nursery.seconds_left === null ? null : `deadline in ${duration(nursery.seconds_left)}`,
  ].filter(Boolean).join(", ");
}

function Nursery({ nursery }) {
  const words = scopeWords(nursery);
  return html`<li class=${`nursery ${nursery.is_cancelled ? "is-cancelled" : ""}`} data-testid="nursery">
    <span class="nursery-head">nursery${words ? html` <small>${words}</small>` : null}</span>
    <ul>
      ${nursery.tasks.map((task) => html`<${Task} task=${task} />`)}
      ${nursery.left_out > 0 ? html`<li class="left-out">and ${plural(nursery.left_out, "more task")}</li>` : null}
      ${nursery.tasks.length + nursery.left_out === 0 ? html`<li class="left-out">no tasks</li>` : null}
    </ul></li>`;
}

function Task({ task }) {
  return html`<li class="task" data-testid="task">
    <div class="task-head"><code class="task-name">${task.name}</code>
      <span class="waits">waits for <strong>${task.waits_for}</strong>
        ${task.seconds === null ? null : html` <time>${duration(task.seconds)}</time>`}</span></div>
    <${Places} places=${task.places} />
    ${task.nurseries.length > 0
      ? html`<ul class="nurseries">${task.nurseries.map((each) => html`<${Nursery} nursery=${each} />`)}</ul>` : null}
  </li>`;
}

function Tree({ path, token, title, onRefused, onClose }) {
  const [task, trouble] = useRepeated(path, token, 1000, onRefused);
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} class="tree" data-testid="tree" onClose=${onClose} aria-labelledby="tree-title">
    <header><h2 id="tree-title">${title}</h2>
      <button type="button" onClick=${() => dialog.current.close()}>Close</button></header>
    ${trouble ? html`<p class="trouble" role="status">${trouble}</p>` : null}
    ${task ? html`<ul class="nurseries is-root"><${Task} task=${task} /></ul>` : trouble ? null : html`<p>…</p>`}
  </dialog>`;
}

// --- Turns -----------------------------------------------------------------------------------------

function StopButton({ turn, node, token, onTrouble }) {
  const [step, setStep] = useState("offered");
  useEffect(() => {
    const timer = step === "sure" ? setTimeout(() => setStep("offered"), 4000) : null;
    return () => clearTimeout(timer);
  }, [step]);
  const press = async () => {
    if (step === "offered") return setStep("sure");
    setStep("asked");
    onTrouble("");
    try {
      await ask(`stop?${about(node, turn.turn_id)}`, token, "POST");
    } catch (error) {
      setStep("offered");
      onTrouble(error.message);
    }
  };
  if (turn.reason !== null) return null;
  const words = { offered: "Stop", sure: "Really stop?", asked: "Stopping…" };
  return html`<button type="button" class=${step === "sure" ? "is-sure" : ""} data-testid="stop-turn"
    aria-label=${`${words[step]} ${turn.turn_id}`} disabled=${step === "asked"} onClick=${press}>${words[step]}</button>`;
}

function TurnRow({ turn, server, token, onOpen, onTrouble, showsNode }) {
  const { node } = server;
  return html`<tr data-testid="turn" class=${turn.reason ? "is-ending" : ""}>
    <td><button type="button" class="link" data-testid="open-turn" onClick=${() => onOpen(node, turn)}><${Id} id=${turn.turn_id} /></button></td>
    ${showsNode ? html`<td><code>${server.process.host}:${server.process.pid}</code></td>` : null}
    <td><${Id} id=${turn.thread_id} /></td>
    <td>${turn.owner_hash ? html`<${Id} id=${turn.owner_hash} />` : "–"}</td>
    <td>${turn.request}</td>
    <td>${turn.state}${turn.reason ? html` <${Reason} reason=${turn.reason} />` : null}</td>
    <td class="number">${duration(turn.seconds)}</td>
    <td class="number">${duration(turn.first_event_seconds)}</td>
    <td class="number">${duration(turn.seconds_left)}</td>
    <td class="number">${turn.events}</td>
    <td class="number">${turn.readers}</td>
    <td class="number">${bytes(turn.unread_bytes)}</td>
    <td><${StopButton} turn=${turn} node=${node} token=${token} onTrouble=${onTrouble} /></td>
  </tr>`;
}

const fits = (turn, filter) =>
  [turn.turn_id, turn.thread_id, turn.owner_hash, turn.request, turn.state ?? turn.reason].some((each) => each.includes(filter));

function Turns({ servers, token, onOpen, onTrouble }) {
  const [filter, setFilter] = useState("");
  const rows = servers
    .flatMap((server) => server.turns.map((turn) => ({ turn, server })))
    .filter(({ turn }) => fits(turn, filter.trim()))
    .sort((one, other) => other.turn.seconds - one.turn.seconds);
  const count = servers.reduce((sum, server) => sum + server.live_turns, 0);
  const told = servers.reduce((sum, server) => sum + server.turns.length, 0);
  const showsNode = servers.length > 1;
  return html`<section aria-labelledby="turns-title">
    <header><h2 id="turns-title">${plural(count, "live turn")}</h2>
      <input type="search" aria-label="Show only turns with" placeholder="turn, thread, owner…" value=${filter}
        onInput=${(event) => setFilter(event.currentTarget.value)} /></header>
    ${count > told ? html`<p class="note">The ${told} oldest are shown.</p>` : null}
    ${rows.length === 0 ? html`<p class="note" data-testid="no-turns">${count === 0 ? "Nobody is being answered." : "No turn fits."}</p>` : html`
    <div class="scrolled" tabindex="0" role="group" aria-labelledby="turns-title"><table>
      <thead><tr><th scope="col">Turn</th>${showsNode ? html`<th scope="col">Node</th>` : null}
        <th scope="col">Thread</th><th scope="col">Owner</th><th scope="col">Request</th><th scope="col">State</th>
        <th scope="col" class="number">For</th><th scope="col" class="number">First event</th>
        <th scope="col" class="number">Limit in</th><th scope="col" class="number">Events</th>
        <th scope="col" class="number">Readers</th><th scope="col" class="number">Unread</th><th scope="col"><span class="unseen">Stop</span></th></tr></thead>
      <tbody>${rows.map(({ turn, server }) => html`<${TurnRow} key=${turn.turn_id} turn=${turn} server=${server}
        token=${token} onOpen=${onOpen} onTrouble=${onTrouble} showsNode=${showsNode} />`)}</tbody>
    </table></div>`}
  </section>`;
}

// --- Ends ------------------------------------------------------------------------------------------

function summed(servers, field) {
  const sums = {};
  for (const server of servers) {
    for (const [name, count] of Object.entries(server[field])) sums[name] = (sums[name] ?? 0) + count;
  }
  return Object.entries(sums).sort((one, other) => other[1] - one[1]);
}

function Counts({ title, counts, tone }) {
  if (counts.length === 0) return null;
  const most = counts[0][1];
  return html`<div class="counts"><h3>${title}</h3><dl data-testid=${`counts-${title.toLowerCase().replaceAll(" ", "-")}`}>
    ${counts.map(([name, count]) => html`<div><dt>${name}</dt>
      <dd><span class=${`bar is-${tone(name)}`} style=${{ inlineSize: `${(100 * count) / most}px` }}></span> ${count}</dd></div>`)}
  </dl></div>`;
}

function Ends({ servers }) {
  const ends = servers.flatMap((server) => server.ends).sort((one, other) => other.at - one.at).slice(0, 40);
  return html`<section aria-labelledby="ends-title">
    <h2 id="ends-title">How turns have ended</h2>
    <div class="all-counts">
      <${Counts} title="Ends" counts=${summed(servers, "reasons")} tone=${toneOf} />
      <${Counts} title="Recovered turns" counts=${summed(servers, "recovered")} tone=${() => "cut"} />
      <${Counts} title="Refused requests" counts=${summed(servers, "refusals")} tone=${() => "bad"} />
    </div>
    ${ends.length === 0 ? html`<p class="note">None has since this process began.</p>` : html`
    <div class="scrolled" tabindex="0" role="group" aria-labelledby="ends-title"><table>
      <thead><tr><th scope="col">At</th><th scope="col">Reason</th><th scope="col">Error</th><th scope="col">Turn</th>
        <th scope="col">Thread</th><th scope="col">Owner</th><th scope="col">Request</th>
        <th scope="col" class="number">Took</th><th scope="col" class="number">Events</th></tr></thead>
      <tbody>${ends.map((end) => html`<tr key=${end.turn_id} data-testid="end">
        <td>${new Date(end.at * 1000).toLocaleTimeString()}</td><td><${Reason} reason=${end.reason} /></td>
        <td>${end.error ? html`<code>${end.error}</code>` : ""}</td><td><${Id} id=${end.turn_id} /></td>
        <td><${Id} id=${end.thread_id} /></td><td>${end.owner_hash ? html`<${Id} id=${end.owner_hash} />` : "–"}</td>
        <td>${end.request}</td><td class="number">${duration(end.seconds)}</td><td class="number">${end.events}</td></tr>`)}</tbody>
    </table></div>`}
  </section>`;
}

// --- Nodes -----------------------------------------------------------------------------------------

function Fact({ name, value, isBad: bad = false }) {
  return html`<div class=${bad ? "is-bad" : ""}><dt>${name}</dt><dd>${value}</dd></div>`;
}

const LATE = 5; // seconds behind which a journal or an answer that isn't stored is shown as trouble

function Node({ server, isThis, onTasks }) {
  const { health, process } = server;
  return html`<article class="node" data-testid="node">
    <header><h3>${process.host}:${process.pid}</h3><small>${isThis ? "this one" : html`<${Id} id=${server.node} />`}</small></header>
    <dl>
      <${Fact} name=${server.server} value=${health.is_running ? "running" : "not running"} isBad=${!health.is_running} />
      ${Object.entries(health.stores).map(([name, isWell]) => html`<${Fact} name=${name} value=${isWell ? "well" : "can't be written to"} isBad=${!isWell} />`)}
      <${Fact} name="journal behind" value=${health.journal_lag === null ? "no journal" : duration(health.journal_lag)} isBad=${health.journal_lag > LATE} />
      <${Fact} name="oldest unstored end" value=${duration(health.oldest_settling)} isBad=${health.oldest_settling > LATE} />
      <${Fact} name="unread" value=${bytes(health.unread_bytes)} />
      <${Fact} name="live turns" value=${server.live_turns} />
      <${Fact} name="tasks" value=${`${process.tasks}, ${process.tasks_runnable} runnable`} />
      <${Fact} name="threads busy" value=${`${process.threads_busy} of ${process.threads ?? "any number"}`} isBad=${process.threads_busy === process.threads} />
      <${Fact} name="up" value=${duration(process.up_seconds)} />
      <${Fact} name="versions" value=${`${process.version}, Trio ${process.trio}, Python ${process.python}`} />
    </dl>
    <button type="button" onClick=${onTasks} aria-label=${`All tasks of ${process.host}:${process.pid}`}>All tasks</button>
  </article>`;
}

function SilentNode({ node }) {
  return html`<article class="node is-silent" data-testid="silent-node"><header><h3><${Id} id=${node} /></h3></header>
    <p>It lives, says the store, and doesn't answer: it is busy or paused, or has no /admin.</p></article>`;
}

// --- The page --------------------------------------------------------------------------------------

function Overview({ token, onRefused, onLeave }) {
  const [own, ownTrouble] = useRepeated("state", token, 1000, onRefused);
  const [others, othersTrouble] = useRepeated("nodes", token, 2000, onRefused);
  const [opened, setOpened] = useState(null);
  const [trouble, setTrouble] = useState("");
  if (!own) return html`<main><p role="status">${ownTrouble ?? "Asking the server…"}</p></main>`;
  const nodes = others ?? [];
  const remote = nodes.flatMap(({ node, states }) => (states ?? []).map((server) => ({ ...server, node })));
  const servers = [{ ...own, node: "" }, ...remote];
  const openTurn = (node, turn) => setOpened({ path: `tree?${about(node, turn.turn_id)}`, title: `Tasks of ${turn.turn_id}` });
  const openTasks = ({ node, process }) =>
    setOpened({ path: `tasks?node=${encodeURIComponent(node)}`, title: `All tasks of ${process.host}:${process.pid}` });
  const troubles = [ownTrouble, othersTrouble && `The other nodes can't be asked: ${othersTrouble}`, trouble].filter(Boolean);
  return html`<main>
    <header class="top"><h1>${own.server}</h1>
      <button type="button" onClick=${onLeave}>Forget the token</button></header>
    ${troubles.map((each) => html`<p class="trouble" role="alert">${each}</p>`)}
    <${Turns} servers=${servers} token=${token} onOpen=${openTurn} onTrouble=${setTrouble} />
    <${Ends} servers=${servers} />
    <section aria-labelledby="nodes-title"><h2 id="nodes-title">${plural(1 + nodes.length, "node")}</h2>
      <div class="nodes">
        ${servers.map((server, index) => html`<${Node} key=${`${server.node}/${server.server}`} server=${server}
          isThis=${index === 0} onTasks=${() => openTasks(server)} />`)}
        ${nodes.filter(({ states }) => states === null || states.length === 0).map(({ node }) => html`<${SilentNode} key=${node} node=${node} />`)}
      </div></section>
    ${opened ? html`<${Tree} key=${opened.path} ...${opened} token=${token} onRefused=${onRefused} onClose=${() => setOpened(null)} />` : null}
  </main>`;
}

function Entrance({ wasRefused, onToken }) {
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const enter = (event) => {
    event.preventDefault();
    const token = field.current.value.trim();
    if (token) onToken(token);
  };
  return html`<main class="entrance"><form onSubmit=${enter}><h1>Turns</h1>
    <input type="text" autocomplete="username" value="admin" hidden />
    <label for="token">The token of this page</label>
    <input id="token" ref=${field} type="password" autocomplete="current-password" data-testid="token"
      aria-invalid=${String(wasRefused)} aria-describedby="token-hint" />
    <p id="token-hint" role="status">${wasRefused ? "That isn't the token." : "Whoever started the server has it: admin_token."}</p>
    <button type="submit">Enter</button></form></main>`;
}

// A browser may refuse to keep anything; then the token is the page's alone.
function kept(run) {
  try {
    return run(sessionStorage);
  } catch {
    return null;
  }
}

function Admin() {
  const [token, setToken] = useState(() => kept((storage) => storage.getItem(KEY)));
  const [wasRefused, setWasRefused] = useState(false);
  const take = (given) => {
    kept((storage) => storage.setItem(KEY, given));
    setWasRefused(false);
    setToken(given);
  };
  const drop = (isRefusal) => {
    kept((storage) => storage.removeItem(KEY));
    setWasRefused(isRefusal);
    setToken(null);
  };
  if (!token) return html`<${Entrance} wasRefused=${wasRefused} onToken=${take} />`;
  return html`<${Overview} token=${token} onRefused=${() => drop(true)} onLeave=${() => drop(false)} />`;
}

render(html`<${Admin} />`, document.getElementById("admin"));
