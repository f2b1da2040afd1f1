// The ship: a hull a pool, a compartment a worker.
//
// A compartment says by shape, word and colour what its worker is doing, which request it holds and for how long.
// That time ticks here, between the frames, from the moment at which the controller says it began. When a worker dies
// its compartment floods; while the replacement comes up it is pumped out; when it is ready it is manned again. A
// replacement can be there within 5 ms, long before the next frame, so the water is held long enough to be seen,
// while word and shape always tell the truth of the latest frame.
//
// With hundreds of workers it has to stay smooth: elements are kept and only what changed is written, times tick ten
// times a second and only in the compartments that are busy, and the browser skips decks that are out of sight
// (content-visibility). Three densities, by the number of workers: roomy, snug, dense.
//
// The keyboard: one stop a hull. Arrows go from compartment to compartment as they lie on the screen, Home and End
// to the ends, Enter or space chooses. Choosing is all that happens here; orders are given in actions.js.

import { el, Keyed, mark, say, shape, svg } from './dom.js';
import { Figures, ofPool } from './figures.js';
import { paintSoon } from './frame.js';
import { reachable } from './commands.js';
import { WOUND_MS } from './store.js';
import { duration, elapsed, plain, plural, short } from './text.js';

/** How often the times tick; half as often with more than FEW workers. */
const TICK_MS = 100;
const FEW = 40;

/** How long the water stands high, and then low, in a compartment whose replacement was quick. */
const HIGH_MS = 800;
const LOW_MS = 2_000;

/** How long the last of it takes to run off, as the stylesheet has it. */
const DRYING_MS = 1_200;

/** The longest request line that is written into a compartment: what is longer is cut off by its edge anyhow. */
const LONGEST_LINE = 160;

/** How wide a compartment has to be, in pixels. */
const LEAST = { roomy: 150, snug: 116, dense: 88 };

const WORDS = {
  idle: 'waits for work',
  busy: 'holds a request',
  starting: 'coming up',
  draining: 'finishes, takes no more',
  paused: 'stopped by SIGSTOP',
  dead: 'gone',
};

/** Which phases there are, with the sentence that explains each. */
export const PHASES = Object.entries(WORDS);

export class Ship {
  #store;
  #choose;
  #chosen = null;
  #pools;
  #records = new Map();
  #ticks = 0;

  /** Draws into `parent`; `choose(id)` is called with a worker that was chosen. */
  constructor(parent, store, choose) {
    this.#store = store;
    this.#choose = choose;
    this.#pools = new Keyed(parent, {
      key: (pool) => pool.name,
      make: (pool) => this.#makePool(pool),
      update: (record, pool) => this.#updatePool(record, pool),
    });
    const soon = () => paintSoon(this.#paint);
    for (const type of ['state', 'incidents', 'paused']) store.addEventListener(type, soon);
    setInterval(() => paintSoon(this.#tick), TICK_MS);
  }

  /** Marks the worker that the orders are for; `null`: none. */
  chosen(id) {
    this.#chosen = id;
    for (const record of this.#records.values()) mark(record.root, 'aria-selected', String(record.id === id));
    // On a narrow page the orders come up over the lower half: the compartment goes to the upper one.
    if (id === null || !matchMedia('(max-width: 1099px)').matches) return;
    this.#records.get(id)?.root.scrollIntoView({ block: 'start' });
  }

  /** Gives the keyboard back to a compartment. */
  focus(id) {
    this.#records.get(id)?.root.focus();
  }

  #paint = (now) => {
    if (this.#store.frame === null) return;
    this.#pools.show(this.#store.frame.pools);
    this.#tick(now);
  };

  #tick = (now) => {
    this.#ticks += 1;
    const isTimed = this.#records.size <= FEW || this.#ticks % 2 === 0;
    for (const record of this.#records.values()) {
      if (isTimed && record.since !== null) say(record.time, elapsed(now - record.since));
      if (record.wetUntil > now || record.water !== 'none') this.#flood(record, now);
    }
  };

  #makePool(pool) {
    const rooms = el(
      'div',
      {
        class: 'rooms',
        role: 'listbox',
        'aria-label': `Workers of the pool ${pool.name}`,
        'aria-orientation': 'horizontal',
      },
    );
    const facts = el('p', { class: 'pool-facts' });
    const pace = el('p', { class: 'pool-facts pace' });
    const crew = el('p', { class: 'crew' });
    const trouble = el('p', { class: 'trouble', hidden: true });
    const list = el('dl', { class: 'figures figures-pool', 'data-figures': pool.name });
    const hull = el('div', { class: 'hull' }, el('div', { class: 'stern' }), rooms, el('div', { class: 'bow' }));
    const root = el(
      'section',
      { class: 'pool', 'data-pool': pool.name, 'aria-label': `Pool ${pool.name}` },
      el('header', { class: 'pool-head' }, el('h3', {}, pool.name), facts, crew, pace),
      trouble,
      el(
        'div',
        { class: 'scene' },
        el('div', { class: 'sea', 'aria-hidden': 'true' }, el('i', { class: 'surface' })),
        topside(),
        hull,
      ),
      list,
    );
    const workers = new Keyed(rooms, {
      key: (worker) => worker.id,
      make: (worker) => this.#makeRoom(worker),
      update: (record, worker) => this.#updateRoom(record, worker),
    });
    rooms.addEventListener('keydown', (event) => this.#key(event, rooms));
    rooms.addEventListener('focusin', (event) => rove(rooms, event.target));
    rooms.addEventListener('click', (event) => {
      const room = event.target.closest('.room');
      if (room === null) return;
      rove(rooms, room);
      this.#choose(room.dataset.worker);
    });
    const record = {
      root,
      rooms,
      facts,
      pace,
      crew,
      trouble,
      workers,
      number: 0,
      width: 0,
      figures: new Figures(list, pool.name),
    };
    new ResizeObserver(([entry]) => {
      record.width = entry.contentRect.width;
      lay(record);
    }).observe(rooms);
    return record;
  }

  #updatePool(record, pool) {
    const mine = this.#store.frame.workers.filter((worker) => worker.pool === pool.name);
    mine.sort((one, other) => place(one.id) - place(other.id));
    const address = `${pool.protocol}://${reachable(pool.listen, location.hostname)}`;
    say(record.facts, `${address} · ${pool.app}, ${pool.model} · ${pool.backend}`);
    const [turn, wait] = [pool.turn_ms, pool.wait_ms];
    say(
      record.pace,
      turn?.p50 == null
        ? 'no turn was timed yet'
        : `a turn takes ${duration(turn.p50)}, at p99 ${duration(turn.p99)}; ` +
            `the wait for a worker is ${duration(wait?.p50)}, at p99 ${duration(wait?.p99)}`,
    );
    const waiting = pool.queued > 0 ? `, ${plural(pool.queued, 'request waits', 'requests wait')}` : '';
    say(record.crew, `${pool.ready} of ${pool.wanted} ready, ${pool.busy} busy${waiting}`);
    mark(record.root, 'data-degraded', String(pool.degraded));
    mark(record.root, 'data-ready', pool.ready);
    mark(record.root, 'data-wanted', pool.wanted);
    const troubles = [
      pool.degraded ? 'Degraded: it loses workers faster than is sound, and waits longest between tries.' : '',
      pool.trouble ? `A worker could not be started: ${plain(pool.trouble)}` : '',
    ];
    const trouble = troubles.filter(Boolean).join(' ');
    say(record.trouble, trouble);
    record.trouble.hidden = trouble === '';
    record.figures.show(ofPool(pool));
    if (record.number !== mine.length) {
      record.number = mine.length;
      lay(record);
    }
    const before = record.rooms.querySelector('[tabindex="0"]');
    record.workers.show(mine);
    for (const [id, room] of this.#records) {
      if (room.pool === pool.name && !record.rooms.contains(room.root)) this.#records.delete(id);
    }
    if ((before === null || !before.isConnected) && record.rooms.firstElementChild !== null) rove(
      record.rooms,
      record.rooms.firstElementChild,
    );
  }

  #makeRoom(worker) {
    const use = svg('use', { href: '#shape-idle' });
    const record = {
      id: worker.id,
      pool: worker.pool,
      use,
      name: el('span', { class: 'name' }, worker.id),
      word: el('span', { class: 'word' }),
      time: el('span', { class: 'time' }),
      what: el('span', { class: 'what' }),
      more: el('span', { class: 'more' }),
      since: null,
      holds: '',
      water: 'none',
      wetUntil: 0,
      drawn: null,
      drying: null,
      phase: '',
      generation: 0,
    };
    record.root = el(
      'div',
      {
        class: 'room',
        role: 'option',
        tabindex: '-1',
        'data-worker': worker.id,
        'aria-selected': String(worker.id === this.#chosen),
      },
      record.name,
      svg('svg', { class: 'porthole', 'aria-hidden': 'true' }, use),
      record.word,
      record.time,
      record.what,
      record.more,
    );
    this.#records.set(worker.id, record);
    return record;
  }

  #updateRoom(record, worker) {
    const phase = this.#store.phase(worker);
    const wound = this.#store.wounds.get(worker.id);
    const held = worker.holding[0];
    const request = held === undefined ? '' : plain(held.request);
    this.#since(record, worker, request);

    record.phase = phase;
    record.generation = worker.generation;
    mark(record.root, 'data-phase', phase);
    mark(record.root, 'data-generation', worker.generation);
    mark(record.use, 'href', `#shape-${phase}`);
    say(record.word, phase);
    if (record.since === null) say(record.time, '');

    const more = worker.holding.length > 1 ? `, and ${worker.holding.length - 1} more` : '';
    const text = request === '' ? this.#aside(phase, worker, wound) : `${short(request, LONGEST_LINE)}${more}`;
    say(record.what, text);
    mark(record.what, 'data-request', request !== '');
    mark(record.root, 'title', request === '' ? null : short(request, 400));
    say(record.more, `life ${worker.generation} · ${plural(worker.turns, 'turn')} · ${unit(worker)}`);
    mark(record.root, 'aria-label', `${worker.id}: ${phase}, ${text}, life ${worker.generation}`);
    this.#flood(record, performance.now());
  }

  /** Since when it holds what it holds. Frames jitter by a few milliseconds; the same request keeps its beginning. */
  #since(record, worker, request) {
    if (request === '') {
      record.since = null;
      record.holds = '';
      return;
    }
    const holds = `${worker.generation} ${request}`;
    const since = this.#store.frameAt - worker.holding[0].for_ms;
    if (record.since === null || record.holds !== holds || Math.abs(since - record.since) > 150) {
      record.since = since;
      say(record.time, elapsed(performance.now() - since));
    }
    record.holds = holds;
  }

  /** What stands where a request would. */
  #aside(phase, worker, wound) {
    const replaces = wound !== undefined && wound.generation >= worker.generation - 1;
    const isFlooded = wound?.generation === worker.generation;
    if (phase === 'dead') return isFlooded ? 'flooded; the next one is on its way' : 'waits for its next worker';
    if (phase === 'starting') return replaces ? 'is pumped out' : 'coming up';
    const ready = wound?.incident.steps_ms.ready;
    const isRecent = replaces && ready != null && performance.now() - wound.seenAt < WOUND_MS;
    if (phase === 'idle' && isRecent) return `manned again after ${duration(ready)}`;
    return WORDS[phase];
  }

  /** How high the water stands: by the phase, and for a while after a death that was mended at once. */
  #flood(record, now) {
    const wound = this.#store.wounds.get(record.id);
    let water = 'none';
    let until = 0;
    if (wound !== undefined && wound.generation >= record.generation - 1) {
      const age = now - wound.seenAt;
      if (record.phase === 'dead' || age < HIGH_MS) water = 'high';
      else if (record.phase === 'starting' || age < LOW_MS) water = 'low';
      until = wound.seenAt + LOW_MS;
    }
    record.wetUntil = until;
    if (record.water === water) return;
    record.water = water;
    mark(record.root, 'data-water', water === 'none' ? null : water);
    // Water is there only while there is some to be seen: each such element is a layer for the browser to keep.
    clearTimeout(record.drying);
    if (water === 'none') record.drying = setTimeout(() => dry(record), DRYING_MS);
    else if (record.drawn === null) {
      record.drawn = el('span', { class: 'water', 'aria-hidden': 'true' });
      record.root.prepend(record.drawn);
      mark(record.root, 'data-wet', true);
    }
  }

  #key(event, rooms) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const room = event.target.closest('.room');
    if (room === null) return;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.#choose(room.dataset.worker, 'by keyboard');
      return;
    }
    const next = neighbour(rooms, room, event.key);
    if (next === null) return;
    event.preventDefault();
    rove(rooms, next);
    next.focus();
    next.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
}

function dry(record) {
  record.drawn?.remove();
  record.drawn = null;
  mark(record.root, 'data-wet', null);
}

/** How many compartments lie side by side, so that the decks are evenly filled. */
function lay(record) {
  const { number, width, rooms } = record;
  if (width === 0) return;
  const isNarrow = width < 2 * LEAST.roomy;
  const density = number <= 8 && !isNarrow ? 'roomy' : number <= 40 ? 'snug' : 'dense';
  const least = LEAST[density];
  const most = Math.max(Math.floor((width + 6) / (least + 6)), 1);
  const decks = Math.max(Math.ceil(number / most), 1);
  mark(rooms, 'data-density', density);
  const columns = String(Math.max(Math.ceil(number / decks), 1));
  if (rooms.style.getPropertyValue('--columns') !== columns) rooms.style.setProperty('--columns', columns);
}

/** Makes `room` the one that the tabulator key reaches. */
function rove(rooms, room) {
  if (!room.classList.contains('room')) return;
  for (const other of rooms.querySelectorAll('[tabindex="0"]')) if (other !== room) mark(other, 'tabindex', '-1');
  mark(room, 'tabindex', '0');
}

/** Where a key leads to, as the compartments lie; `null` when it is not such a key or there is nothing there. */
function neighbour(rooms, room, key) {
  const all = [...rooms.children];
  const at = all.indexOf(room);
  const columns = Number(rooms.style.getPropertyValue('--columns')) || 1;
  const to = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    Home: 0,
    End: all.length - 1,
  }[key];
  return to === undefined ? null : (all[to] ?? null);
}

/** `web-12` is place 12: names sort as numbers. */
function place(id) {
  return Number(id.slice(id.lastIndexOf('-') + 1));
}

/** Where it runs, in a few words. */
export function unit(worker) {
  return worker.container ?? worker.pod ?? (worker.pid === null ? 'no process' : `pid ${worker.pid}`);
}

/** Deckhouse, funnel and mast: nothing but a silhouette. */
function topside() {
  const windows = [52, 64, 76, 88, 100].map((x) => svg(
    'rect',
    { class: 'window', x, y: 20, width: 7, height: 5, rx: 1 },
  ));
  const lower = [36, 50, 64, 78, 92, 106, 120, 134].map((x) => svg(
    'circle',
    { class: 'window', cx: x + 4, cy: 37, r: 2.2 },
  ));
  return svg(
    'svg',
    { class: 'topside', viewBox: '0 0 240 46', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { class: 'plate', d: 'M22 46V31h126l8 15z' }),
    svg('path', { class: 'plate', d: 'M40 31V15h70l9 16z' }),
    svg('path', { class: 'plate', d: 'M58 15l3-13h16l3 13z' }),
    svg('path', { class: 'band', d: 'M59.400 9l1-4h17.200l1 4z' }),
    svg('path', { class: 'line', d: 'M182 46V4M174 16h16' }),
    svg('path', { class: 'pennant', d: 'M182 4l-20 4.500 20 4.500z' }),
    ...windows,
    ...lower,
  );
}
