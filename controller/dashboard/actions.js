// Orders: to one worker, to a random one, to a pool. Each button stands beside what one could have typed instead.
//
// Nothing happens here but asking the API; what comes of it is seen on the ship, since every page hears of it in the
// same way, whoever gave the order. What the API refuses is shown with its reason, as text. A viewer's buttons are
// disabled, and a line above them says why; their commands can be copied all the same. An operator's stay enabled
// even while a worker is dead: a button that is switched off under a finger takes the keyboard's focus with it, and
// the API says well enough why it cannot be done.
//
// A random worker is chosen when the button is pressed, among those that serve, and named in the answer.

import { order, Refused } from './api.js';
import * as commands from './commands.js';
import { copyButton } from './copy.js';
import { el, mark, on, say, shape } from './dom.js';
import { paintSoon } from './frame.js';
import { unit } from './ship.js';
import { count, duration, plain, plural, sentence, short } from './text.js';

const WORKER_ACTIONS = [
  {
    name: 'kill',
    label: 'Kill',
    signal: 'SIGKILL',
    grave: true,
    note: 'SIGKILL: gone at once, in the middle of whatever it does',
  },
  {
    name: 'crash',
    label: 'Crash',
    signal: 'SIGSEGV',
    grave: true,
    note: 'SIGSEGV: as if its code had touched what is not its own',
  },
  {
    name: 'pause',
    label: 'Pause',
    signal: 'SIGSTOP',
    note: 'SIGSTOP: it stands still with what it holds; overruns its time, and is killed for it',
  },
  { name: 'resume', label: 'Resume', signal: 'SIGCONT', note: 'SIGCONT: it goes on' },
  { name: 'drain', label: 'Drain', note: 'it finishes what it holds, and is replaced' },
];

const REQUESTS = [
  {
    name: 'request-crash',
    label: 'Crash',
    path: () => '/segv',
    note: 'the handler touches what is not its own: SIGSEGV',
  },
  { name: 'request-exit', label: 'Exit', path: () => '/exit?code=3', note: 'the handler calls exit(3)' },
  { name: 'request-panic', label: 'Panic', path: () => '/panic', note: 'the handler panics' },
  {
    name: 'request-hang',
    label: 'Hang',
    path: () => '/hang',
    note: 'the handler never answers; the worker is killed when the request overruns its time',
  },
  {
    name: 'request-leak',
    label: 'Leak',
    path: (panel) => `/leak?mb=${panel.megabytes}`,
    note: 'the handler takes memory and keeps it; press it until the limit ends the worker',
  },
];

const VIEWERS_NOTE =
  'You may look. This token has the scope viewer, and orders take an operator’s: the buttons are off, the ' +
  'commands can be copied.';

/** The most workers that a pool may have. */
const MOST_WORKERS = 1000;

export class Orders {
  megabytes = 16;
  #store;
  #ship;
  #focusRoom;
  #pool = null;
  #worker = null;
  #rows = [];
  #parts = {};
  #word = 'engine';

  /** `chosen(id)` and `focusRoom(id)` are the ship's. */
  constructor(parent, store, { chosen, focusRoom }) {
    this.#store = store;
    this.#ship = chosen;
    this.#focusRoom = focusRoom;
    this.#parts.root = parent;
    parent.append(
      el('h2', { id: 'orders-title', class: 'hidden-text' }, 'Orders'),
      (this.#parts.scope = el('p', { class: 'notice scope-note', 'data-scope-note': true, hidden: true })),
      this.#workerCard(),
      this.#poolCard(),
    );
    for (const type of ['state', 'me', 'paused']) store.addEventListener(type, () => paintSoon(this.#paint));
  }

  /** The orders are for this worker now; `null`: for a random one. */
  choose(id, focus = false) {
    this.#worker = id;
    const worker = id === null ? undefined : this.#store.worker(id);
    if (worker !== undefined) this.#pool = worker.pool;
    mark(this.#parts.root, 'data-target', id ?? 'random');
    mark(this.#parts.workerCard, 'data-open', id !== null);
    mark(document.body, 'data-sheet', id !== null);
    this.#answer('worker', '', null);
    this.#ship(id);
    this.#paint();
    if (focus) this.#parts.workerCard.querySelector('.rows button:not([disabled])')?.focus();
  }

  #workerCard() {
    const parts = this.#parts;
    parts.title = el('h3', { id: 'worker-title' });
    parts.phase = el('p', { class: 'phase-line' });
    parts.holding = el('ul', { class: 'holding' });
    parts.random = on(
      el(
        'button',
        { type: 'button', class: 'quiet', 'data-action': 'choose-random' },
        el('span', { class: 'wide' }, 'A random one instead'),
        el('span', { class: 'narrow' }, 'Close'),
      ),
      'click',
      () => this.#leave(),
    );
    const words = el('div', { class: 'choice small', role: 'radiogroup', 'aria-label': 'Which command to show' });
    for (const [value, label] of [['engine', 'engine’s'], ['bulkhead', 'bulkhead’s']]) {
      const input = el('input', { type: 'radio', name: 'word', value, checked: value === this.#word });
      on(input, 'change', () => {
        this.#word = value;
        this.#paint();
      });
      words.append(el('label', {}, input, el('span', {}, label)));
    }
    parts.words = el('div', { class: 'words' }, el('span', {}, 'Commands:'), words);
    const rows = WORKER_ACTIONS.map((action) => this.#row(action, {
      press: () => this.#signal(action),
      command: () => this.#workerCommand(action),
    }));
    parts.workerAnswer = el('p', { class: 'answer', 'data-answer': 'worker', role: 'status' });
    parts.workerCard = el(
      'section',
      { class: 'card worker-card', 'aria-labelledby': 'worker-title' },
      el('header', { class: 'card-head' }, parts.title, parts.random),
      parts.phase,
      parts.holding,
      parts.words,
      el('div', { class: 'rows' }, ...rows),
      parts.workerAnswer,
    );
    on(parts.workerCard, 'keydown', (event) => {
      if (event.key === 'Escape' && this.#worker !== null) this.#leave();
    });
    return parts.workerCard;
  }

  #poolCard() {
    const parts = this.#parts;
    parts.pools = el('div', { class: 'choice', role: 'radiogroup', 'aria-label': 'For which pool' });
    const requests = REQUESTS.map((action) => this.#row(action, {
      press: () => this.#request(action.path(this)),
      command: () => commands.request(this.#poolView(), action.path(this), location.hostname),
      beside: action.name === 'request-leak' ? this.#megabytes() : null,
    }));
    parts.requests = el(
      'div',
      { class: 'rows', 'data-group': 'requests' },
      el('h4', {}, 'Send it a request that …'),
      ...requests,
    );
    parts.noRequests = el(
      'p',
      { class: 'hint', hidden: true },
      'Requests can be sent to a pool that speaks HTTP. This one does not.',
    );
    const scales = [
      { name: 'scale-down', label: 'Fewer', by: -1, note: 'the idlest is drained' },
      { name: 'scale-up', label: 'More', by: 1, note: 'another worker is started' },
    ].map((action) => this.#row(action, {
      press: () => this.#scale(this.#poolView().wanted + action.by),
      command: () => commands.scale(this.#pool, clampWorkers(this.#poolView().wanted + action.by), location.origin),
      disabled: () => clampWorkers(this.#poolView().wanted + action.by) === this.#poolView().wanted,
    }));
    parts.poolAnswer = el('p', { class: 'answer', 'data-answer': 'pool', role: 'status' });
    parts.poolTitle = el('h3', { id: 'pool-title' }, 'Pool');
    return el(
      'section',
      { class: 'card pool-card', 'aria-labelledby': 'pool-title' },
      el('header', { class: 'card-head' }, parts.poolTitle, parts.pools),
      parts.requests,
      parts.noRequests,
      el('div', { class: 'rows' }, el('h4', {}, 'How many workers'), ...scales, this.#scaleTo()),
      (parts.trickle = this.#trickle()),
      parts.poolAnswer,
    );
  }

  #megabytes() {
    const input = el(
      'input',
      { type: 'number', min: 1, max: 1024, value: this.megabytes, id: 'leak-mb', 'aria-label': 'MiB to leak' },
    );
    on(input, 'input', () => {
      this.megabytes = Math.min(Math.max(Math.round(Number(input.value)) || 1, 1), 1024);
      this.#paint();
    });
    return el('span', { class: 'beside' }, input, ' MiB');
  }

  #scaleTo() {
    const parts = this.#parts;
    parts.wanted = el(
      'input',
      { type: 'number', min: 0, max: MOST_WORKERS, id: 'scale-to', 'aria-label': 'Workers wanted', required: true },
    );
    on(parts.wanted, 'input', () => this.#paint());
    const to = () => {
      if (parts.wanted.value !== '') return clampWorkers(Number(parts.wanted.value));
      return this.#pool === null ? 0 : this.#poolView().wanted;
    };
    return this.#row({ name: 'scale-to', label: 'Scale to', note: 'drains or starts as many as it takes' }, {
      press: () => this.#scale(to()),
      command: () => commands.scale(this.#pool, to(), location.origin),
      beside: el('span', { class: 'beside' }, parts.wanted),
    });
  }

  #trickle() {
    const parts = this.#parts;
    parts.path = el('input', { id: 'trickle-path', value: '/work?ms=300', spellcheck: 'false', autocomplete: 'off' });
    parts.rate = el('input', { id: 'trickle-rate', type: 'number', min: 0.1, max: 50, step: 'any', value: 4 });
    for (const input of [parts.path, parts.rate]) on(input, 'input', () => this.#paint());
    parts.switch = on(
      el(
        'button',
        { type: 'button', role: 'switch', 'aria-checked': 'false', class: 'switch', 'data-action': 'trickle' },
        el('i', { 'aria-hidden': 'true' }),
        el('span', {}, 'Trickle'),
      ),
      'click',
      () => this.#turnTrickle(),
    );
    parts.trickleCommand = el('code', { 'data-command': 'trickle' });
    parts.trickleState = el('p', { class: 'hint trickle-state' });
    return el(
      'div',
      { class: 'trickle', 'data-group': 'trickle' },
      el('h4', {}, 'A trickle of requests'),
      el(
        'div',
        { class: 'field-row' },
        el('label', { for: 'trickle-path' }, 'GET'),
        parts.path,
        parts.rate,
        el('label', { for: 'trickle-rate' }, 'a second'),
      ),
      el(
        'div',
        { class: 'order' },
        parts.switch,
        parts.trickleCommand,
        copyButton(() => parts.trickleCommand.textContent),
      ),
      parts.trickleState,
    );
  }

  /** One action: its button, its command, and a button that copies that. */
  #row(action, { press, command, beside = null, disabled = () => false }) {
    const button = on(
      el(
        'button',
        { type: 'button', 'data-action': action.name, title: action.note, class: action.grave ? 'grave' : '' },
        action.label,
      ),
      'click',
      press,
    );
    const code = el('code', { 'data-command': action.name });
    const root = el(
      'div',
      { class: 'order' },
      button,
      beside === null ? code : el('div', { class: 'with-field' }, beside, code),
      copyButton(() => code.textContent),
    );
    this.#rows.push({ button, code, command, disabled });
    return root;
  }

  #poolView() {
    return this.#store.pool(this.#pool);
  }

  #paint = () => {
    const { frame, me } = this.#store;
    if (frame === null || frame.pools.length === 0) return;
    if (this.#poolView() === undefined) this.#pool = frame.pools[0].name;
    const worker = this.#worker === null ? undefined : this.#store.worker(this.#worker);
    if (this.#worker !== null && worker === undefined) return this.choose(null);
    this.#paintScope(me);
    this.#paintPools(frame.pools);
    this.#paintWorker(worker);
    this.#paintTrickle(frame.trickles);
    const mayOrder = me?.scope === 'operator';
    for (const row of this.#rows) {
      const text = row.command();
      say(row.code, text);
      mark(row.code, 'title', text);
      const off = !mayOrder || row.disabled();
      if (row.button.disabled !== off) row.button.disabled = off;
    }
    this.#parts.switch.disabled = !mayOrder || this.#poolView().protocol !== 'http';
    return undefined;
  };

  #paintScope(me) {
    const { scope } = this.#parts;
    scope.hidden = me === null || me.scope === 'operator';
    say(
      scope,
      me?.scope === 'viewer' ? VIEWERS_NOTE : '',
    );
  }

  #paintPools(pools) {
    const { pools: parent, requests, noRequests, trickle, wanted } = this.#parts;
    const names = pools.map((pool) => pool.name).join(' ');
    if (parent.dataset.names !== names) {
      parent.dataset.names = names;
      parent.replaceChildren(...pools.map((pool) => {
        const input = on(el('input', { type: 'radio', name: 'pool', value: pool.name }), 'change', () => {
          this.#pool = pool.name;
          if (this.#worker !== null && this.#store.worker(this.#worker)?.pool !== pool.name) this.choose(null);
          wanted.value = '';
          this.#answer('pool', '', null);
          this.#paint();
        });
        return el('label', {}, input, el('span', {}, pool.name));
      }));
    }
    for (const input of parent.querySelectorAll('input')) {
      const isChosen = input.value === this.#pool;
      if (input.checked !== isChosen) input.checked = isChosen;
    }
    const pool = this.#poolView();
    const isHttp = pool.protocol === 'http';
    requests.hidden = !isHttp;
    trickle.hidden = !isHttp;
    noRequests.hidden = isHttp;
    mark(wanted, 'placeholder', pool.wanted);
  }

  #paintWorker(worker) {
    const { title, phase, holding, random, words } = this.#parts;
    random.hidden = worker === undefined;
    const hasEngine = worker !== undefined && commands.engines(worker, 'SIGKILL') !== null;
    words.hidden = !hasEngine;
    say(words.querySelector('label span'), worker?.container ? 'docker’s' : 'the system’s');
    if (worker === undefined) {
      say(title, `A random worker of ${this.#pool}`);
      say(phase, 'Choose a compartment of the ship to give orders to that one.');
      holding.replaceChildren();
      return;
    }
    const seen = this.#store.phase(worker);
    say(title, worker.id);
    if (phase.dataset.phase !== seen || phase.firstElementChild === null) {
      phase.dataset.phase = seen;
      phase.replaceChildren(shape(seen, 'porthole small'), el('span'));
    }
    say(
      phase.lastElementChild,
      `${seen}, life ${worker.generation}, ${unit(worker)}, ${plural(worker.turns, 'turn')}`,
    );
    const held = worker.holding.map((each) => short(plain(each.request), 400));
    if (holding.dataset.held !== JSON.stringify(held)) {
      holding.dataset.held = JSON.stringify(held);
      holding.replaceChildren(...held.map((request) => el('li', {}, el('code', {}, request))));
    }
  }

  #paintTrickle(trickles) {
    const parts = this.#parts;
    const running = trickles.find((each) => each.pool === this.#pool);
    mark(parts.switch, 'aria-checked', String(running !== undefined));
    for (const input of [parts.path, parts.rate]) mark(input, 'disabled', running !== undefined);
    say(
      parts.trickleCommand,
      commands.trickle(this.#pool, running === undefined ? this.#trickleSpec() : null, location.origin),
    );
    mark(parts.trickleCommand, 'title', parts.trickleCommand.textContent);
    if (running === undefined) return say(
      parts.trickleState,
      'The door sends them to itself, as a client does. It ends by itself after 10 minutes.',
    );
    const left = Date.parse(running.until) - this.#store.now();
    return say(
      parts.trickleState,
      `${running.per_second} a second of GET ${plain(running.path)}: ${count(running.sent)} sent, ` +
        `${count(running.answered)} answered, ${count(running.failed)} failed, ` +
        `${count(running.in_flight)} under way; ends in ${duration(Math.max(left, 0))}.`,
    );
  }

  #trickleSpec() {
    return { path: this.#parts.path.value, per_second: Number(this.#parts.rate.value) };
  }

  #workerCommand(action) {
    if (this.#worker === null) return commands.forRandom(action, this.#pool, location.origin);
    const engines = action.signal === undefined || this.#word !== 'engine' ? null : commands.engines(
      this.#store.worker(this.#worker),
      action.signal,
    );
    return engines ?? commands.forWorker(action, this.#worker, location.origin);
  }

  #candidates(action) {
    const paused = action.name === 'resume';
    const phases = paused ? ['paused'] : ['idle', 'busy'];
    const workers = this.#store.frame.workers.filter((worker) => worker.pool === this.#pool);
    return workers.filter((worker) => phases.includes(this.#store.phase(worker)));
  }

  async #signal(action) {
    const among = this.#candidates(action);
    const id = this.#worker ?? among[Math.floor(Math.random() * among.length)]?.id;
    if (id === undefined) return this.#answer(
      'worker',
      action.name === 'resume' ? 'No worker of this pool is paused.' : 'No worker of this pool serves at the moment.',
      true,
    );
    const place = encodeURIComponent(id);
    return this.#give('worker', async () => {
      if (action.signal === undefined) {
        await order('POST', `workers/${place}/drain`);
        return `${id} finishes what it holds and is replaced.`;
      }
      const done = await order('POST', `workers/${place}/kill`, { signal: action.signal });
      this.#store.signalled(id, action.signal);
      return `Sent ${done?.signal ?? action.signal} to ${id}.`;
    });
  }

  #request(path) {
    const pool = this.#pool;
    return this.#give('pool', async () => {
      const sent = await order('POST', `pools/${encodeURIComponent(pool)}/request`, { path, method: 'GET' });
      return `Sent ${plain(sent?.request ?? `GET ${path}`)} to ${pool}.`;
    });
  }

  #scale(workers) {
    const pool = this.#pool;
    return this.#give('pool', async () => {
      const to = clampWorkers(workers);
      await order('POST', `pools/${encodeURIComponent(pool)}/scale`, { workers: to });
      this.#parts.wanted.value = '';
      return `${pool} is to have ${plural(to, 'worker')}.`;
    });
  }

  #turnTrickle() {
    const pool = this.#pool;
    const path = `pools/${encodeURIComponent(pool)}/trickle`;
    return this.#give('pool', async () => {
      if (this.#parts.switch.getAttribute('aria-checked') === 'true') {
        await order('DELETE', path);
        return `The trickle to ${pool} has ended.`;
      }
      const spec = this.#trickleSpec();
      await order('PUT', path, spec);
      return `${spec.per_second} a second of GET ${plain(spec.path)} go to ${pool}.`;
    });
  }

  async #give(group, act) {
    try {
      this.#answer(group, await act(), false);
    } catch (error) {
      if (!(error instanceof Refused)) console.error(error);
      this.#answer(group, `Not done. ${sentence(error.message)}`, true);
    }
  }

  #answer(group, text, failed) {
    const line = this.#parts[`${group}Answer`];
    say(line, text);
    mark(line, 'data-failed', failed === null ? null : String(failed));
  }

  /** Back to a random worker, and the keyboard back to the compartment that was chosen. */
  #leave() {
    const before = this.#worker;
    this.choose(null);
    if (before !== null) this.#focusRoom(before);
  }
}

function clampWorkers(number) {
  return Math.min(Math.max(Math.round(number) || 0, 0), MOST_WORKERS);
}
