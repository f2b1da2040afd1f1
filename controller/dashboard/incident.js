// What died and why: the list of incidents, and the post-mortem card of one.
//
// An incident is sent anew whenever more is known of it, so list and card are written from the latest that the store
// has; an open card fills in as the engine's verdict, the outcomes and the replacement arrive. The list begins with
// the latest AT_FIRST, and grows by AT_ONCE where asked.
//
// Requests, causes and the last output are strangers' words: text, with control characters spelt out.

import { copyButton } from './copy.js';
import { el, Keyed, mark, on, say } from './dom.js';
import { paintSoon } from './frame.js';
import { bytes, clock, count, duration, moment, plain, plural, short } from './text.js';

const AT_FIRST = 40;
const AT_ONCE = 160;

const KINDS = {
  signal: 'killed by a signal',
  exit: 'exited',
  oom: 'out of memory',
  request_timeout: 'killed: a request overran its time',
  start_timeout: 'killed: not ready in time',
  protocol: 'killed: broke the protocol',
  lost: 'gone, and nobody saw how',
  not_known_yet: 'what it died of is not known yet',
};

const STEPS = [
  { name: 'detected', label: 'detected', note: 'after the death' },
  { name: 'redelivered', label: 'redelivered', note: 'all of it in other hands' },
  { name: 'spawned', label: 'spawned', note: 'a replacement was started' },
  { name: 'ready', label: 'ready', note: 'it serves' },
];

export class Incidents {
  #store;
  #count;
  #more;
  #shown = AT_FIRST;
  #dialog;
  #list;
  #open = null;
  #written = null;

  constructor({ list, counter, more, dialog, store }) {
    this.#store = store;
    this.#count = counter;
    this.#more = more;
    this.#dialog = dialog;
    this.#list = new Keyed(list, {
      key: (incident) => incident.id,
      make: (incident) => this.#makeLine(incident),
      update: (record, incident) => updateLine(record, incident),
    });
    for (const type of ['incidents', 'state']) store.addEventListener(type, () => paintSoon(this.#paint));
    on(more, 'click', () => {
      this.#shown += AT_ONCE;
      paintSoon(this.#paint);
    });
    on(dialog, 'close', () => {
      this.#open = null;
      this.#written = null;
    });
    // A click beside the card closes it, as Escape does.
    on(dialog, 'click', (event) => {
      if (event.target === dialog) dialog.close();
    });
  }

  /** Shows the post-mortem card of this incident. */
  show(id) {
    this.#open = id;
    this.#written = null;
    this.#paintCard();
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  #paint = () => {
    const latest = [...this.#store.incidents.values()].slice(-this.#shown).reverse();
    this.#list.show(latest);
    const known = this.#store.incidents.size;
    const total = Math.max(this.#store.frame?.incidents.total ?? 0, known);
    const counted = this.#store.frame?.incidents;
    const isSome = counted !== undefined && counted.total > counted.kept;
    const forgotten = isSome ? `; the latest ${count(known)} are remembered` : '';
    say(this.#count, total === 0 ? 'Nobody has died.' : `${count(total)} in all${forgotten}`);
    this.#more.hidden = latest.length === known;
    if (this.#open !== null) this.#paintCard();
  };

  #makeLine({ id }) {
    const record = {
      time: el('time', {}),
      name: el('strong', {}),
      cause: el('span', { class: 'cause' }),
      held: el('span', { class: 'held' }),
      ready: el('span', { class: 'ready' }),
    };
    const button = on(
      el(
        'button',
        { type: 'button', 'data-incident': id, 'aria-haspopup': 'dialog' },
        record.time,
        record.name,
        record.cause,
        record.held,
        record.ready,
      ),
      'click',
      () => this.show(id),
    );
    record.root = el('li', {}, button);
    record.button = button;
    return record;
  }

  #paintCard() {
    const incident = this.#store.incidents.get(this.#open);
    if (incident === undefined || incident === this.#written) return;
    const hadFocus = this.#dialog.contains(document.activeElement);
    this.#written = incident;
    mark(this.#dialog, 'data-post-mortem', incident.id);
    this.#dialog.replaceChildren(card(incident, () => this.#dialog.close()));
    if (hadFocus) this.#dialog.querySelector('[data-action="close"]').focus();
  }
}

/** Why it died, in words. */
export function cause(incident) {
  const { kind, detail } = incident.cause;
  const words = KINDS[kind] ?? plain(kind);
  return detail === '' ? words : `${words}: ${plain(detail)}`.replace('killed by a signal: ', '');
}

/** What became of one request, in words. */
export function outcome(held) {
  const added = held.added_ms === null ? '' : `; its client waited ${duration(held.added_ms)} longer`;
  const why = held.why === null ? '' : `: ${plain(held.why)}`;
  if (held.outcome === 'redelivered') return `redelivered to ${held.to ?? 'another worker'}${added}`;
  if (held.outcome === 'answered') return `answered${held.status === null ? '' : ` ${held.status} by the door`}${why}`;
  if (held.outcome === 'closed') return `its connection was closed${why}`;
  return held.outcome === 'pending' ? 'not yet decided' : plain(held.outcome);
}

function updateLine(record, incident) {
  say(record.time, clock(moment(incident.at)));
  mark(record.time, 'datetime', incident.at);
  say(record.name, incident.id);
  say(record.cause, short(cause(incident), 120));
  say(record.held, heldInShort(incident.held));
  say(
    record.ready,
    incident.steps_ms.ready === null ? 'no replacement yet' : `replaced in ${duration(incident.steps_ms.ready)}`,
  );
  mark(record.button, 'data-complete', String(incident.complete));
  mark(record.button, 'data-outcome', incident.held[0]?.outcome ?? 'none');
}

function heldInShort(held) {
  if (held.length === 0) return 'held nothing';
  const [first] = held;
  const more = held.length > 1 ? ` and ${held.length - 1} more` : '';
  const ends = { redelivered: first.to, answered: first.status };
  const how = `→ ${ends[first.outcome] ?? first.outcome}`;
  return `${short(plain(first.request), 90)} ${how}${more}`;
}

function card(incident, close) {
  const at = moment(incident.at);
  const life = incident.id.slice(incident.id.lastIndexOf('.') + 1);
  const told = [
    el(
      'header',
      { class: 'card-head' },
      el('h2', { id: 'post-mortem-title' }, `Post-mortem of ${incident.id}`),
      on(
        el('button', { type: 'button', class: 'quiet', 'data-action': 'close', 'aria-label': 'Close' }, 'Close'),
        'click',
        close,
      ),
    ),
    el(
      'p',
      { class: 'lead' },
      `${incident.worker} of the pool ${incident.pool} died in its life ${life}, at ${clock(at, true)}: `,
      el('strong', {}, cause(incident)),
      '.',
    ),
    claim(incident),
    el('h3', {}, 'What it held'),
    incident.held.length === 0
      ? el('p', { class: 'hint' }, 'Nothing: no request was in its hands.')
      : el(
        'ul',
        { class: 'held-list' },
        ...incident.held.map((held) => el(
          'li',
          { 'data-outcome': held.outcome },
          el('code', {}, short(plain(held.request), 2000)),
          el('span', {}, outcome(held)),
        )),
      ),
    el('h3', {}, 'How long it took'),
    steps(incident.steps_ms),
  ];
  if (incident.memory) told.push(memory(incident.memory));
  told.push(
    el('h3', {}, 'The last that it wrote'),
    incident.last_output.length === 0 ? el('p', { class: 'hint' }, 'Nothing.') : el(
      'pre',
      { class: 'output', tabindex: '0' },
      incident.last_output.map(plain).join('\n'),
    ),
  );
  if (incident.reproduce) {
    const code = el('code', { 'data-command': 'reproduce' }, plain(incident.reproduce));
    told.push(el('h3', {}, 'Do it again'), el('div', { class: 'order' }, code, copyButton(() => code.textContent)));
  }
  const where = [incident.backend, incident.unit].filter(Boolean).map(plain).join(', ');
  if (where !== '') told.push(el('p', { class: 'hint' }, `It ran as ${where}.`));
  return el('article', {}, ...told);
}

/** The claim: nobody else noticed. */
function claim(incident) {
  const failed = incident.siblings_failed;
  const siblings = plural(incident.siblings, 'sibling');
  const verdict = failed === null || failed === undefined ? 'unknown' : failed === 0 ? 'kept' : 'broken';
  const text = {
    unknown: 'how many of their requests failed is not known yet',
    kept: 'of their requests failed',
    broken: 'of their requests failed, which should not be',
  }[verdict];
  const figure = verdict === 'unknown' ? '…' : count(failed);
  return el(
    'p',
    { class: 'claim', 'data-verdict': verdict, 'data-siblings-failed': failed ?? '' },
    el('span', {}, `${siblings} lived on;`),
    el('strong', {}, figure),
    el('span', {}, `${text}.`),
  );
}

/** Bars on one scale. What has not happened has none. */
function steps(times) {
  const most = Math.max(...STEPS.map(({ name }) => times[name] ?? 0), 0.1);
  return el('dl', { class: 'steps' }, ...STEPS.map(({ name, label, note }) => {
    const ms = times[name];
    const bar = el('i', { 'aria-hidden': 'true' });
    bar.style.setProperty('--share', ms === null || ms === undefined ? '0' : String(Math.max(ms / most, 0.004)));
    return el(
      'div',
      { 'data-step': name },
      el('dt', {}, label),
      el('dd', {}, bar, el('span', { class: 'ms' }, duration(ms)), el('span', { class: 'hint' }, note)),
    );
  }));
}

function memory({ limit_bytes: limit, peak_bytes: peak }) {
  const bar = el('i', { 'aria-hidden': 'true' });
  bar.style.setProperty('--share', String(peak ? Math.min(peak / limit, 1) : 1));
  return el(
    'div',
    { class: 'memory' },
    el('h3', {}, 'Its memory'),
    el('p', { class: 'bar' }, bar),
    el('p', {}, `Limit ${bytes(limit)}, peak ${bytes(peak)}.`),
  );
}
