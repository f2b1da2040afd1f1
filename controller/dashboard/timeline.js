// The timeline: what it shows, how it is moved through, and what it says about what is pointed at.
//
// One lane a worker. The view ends at the present and moves with it, or stands still while it is paused; what happens
// meanwhile is remembered all the same and is there when it goes on. The canvas is as large as what is in sight and
// sticks to its frame; a spacer beneath it gives the frame the height of all lanes, so the frame scrolls as any list
// does, with 8 lanes or with 1,000.
//
// It is drawn at most 30 times a second, and not more often than it would move by half a pixel; twice a second for
// those who asked their system for less motion; not at all out of sight.
//
// Whatever the pointer can reach the keyboard can: arrows up and down choose the lane, left and right the request or
// death in it, Enter opens what is known of a death, space pauses. What is chosen is told as text below the chart.

import { AXIS, draw, palette } from './chart.js';
import { Chronicle, LOST } from './chronicle.js';
import { el, mark, on, say } from './dom.js';
import { paintFirst } from './frame.js';
import { clock, duration, moment, plain, plural, short } from './text.js';

const SPANS = [
  { name: '30 s', ms: 30_000 },
  { name: '2 min', ms: 120_000 },
  { name: '10 min', ms: 600_000 },
];
const LEAST_MS = 33;
const HINT = 'Point at a bar, or move with the arrow keys.';
/** How near a pointer has to come, in pixels. */
const REACH = 6;

export class Timeline {
  chronicle = new Chronicle();
  #store;
  #canvas;
  #context;
  #frame;
  #spacer;
  #readout;
  #legend;
  #colours = null;
  #span = SPANS[0];
  #pausedAt = null;
  #pauseButton;
  #size = { width: 0, height: 0 };
  /** How far the lanes are scrolled. To ask the frame for it while drawing would lay out the whole page. */
  #scroll = 0;
  #inSight = true;
  #timer = null;
  #lanes = [];
  /** What the chart needs of the incidents; `null` when they have changed since. */
  #charted = null;
  #open;
  #cursor = null;
  #calm = matchMedia('(prefers-reduced-motion: reduce)');

  /** `open(id)` shows the post-mortem card of an incident. */
  constructor({ section, store, open }) {
    this.#store = store;
    this.#open = open;
    this.#canvas = section.querySelector('canvas');
    this.#context = this.#canvas.getContext('2d');
    this.#frame = section.querySelector('.lanes');
    this.#spacer = section.querySelector('.spacer');
    this.#readout = section.querySelector('.readout');
    this.#legend = section.querySelector('.marks');
    this.#tools(section.querySelector('.section-tools'));
    this.#listen();
  }

  /** The colours have changed: they are read anew. */
  recolour() {
    this.#colours = null;
    this.#soon();
  }

  /** The connection came or went. */
  connected(isUp) {
    const now = this.#store.now();
    // Before the first frame the controller's clock is not known; the first frame stands for the connection then.
    if (this.#store.frame === null) return;
    if (isUp) this.chronicle.regain(now);
    else this.chronicle.lose(now);
    this.#soon();
  }

  #tools(parent) {
    const group = el('div', { class: 'choice', role: 'radiogroup', 'aria-label': 'How far back' });
    for (const span of SPANS) {
      const input = el(
        'input',
        { type: 'radio', name: 'span', value: span.name, 'data-span': span.name, checked: span === this.#span },
      );
      on(input, 'change', () => {
        this.#span = span;
        this.#soon();
      });
      group.append(el('label', {}, input, el('span', {}, span.name)));
    }
    this.#pauseButton = on(
      el(
        'button',
        { type: 'button', class: 'quiet', 'data-action': 'pause-timeline', 'aria-pressed': 'false' },
        'Pause',
      ),
      'click',
      () => this.#pause(),
    );
    parent.append(group, this.#pauseButton);
  }

  #listen() {
    this.#store.addEventListener('state', ({ detail: frame }) => {
      if (this.chronicle.blind.length === 0) this.chronicle.regain(this.#store.now());
      for (const turn of frame.turns) this.chronicle.add(turn, moment(turn.began));
      this.chronicle.omitted += frame.turns_omitted;
      const now = this.#store.now();
      for (const worker of frame.workers) this.chronicle.laneOf(worker.id, now);
      this.chronicle.forget(now - this.#span.ms);
      this.#arrange();
    });
    this.#store.addEventListener('incidents', () => {
      this.#charted = null;
      this.#soon();
    });
    const canvas = this.#canvas;
    on(this.#frame, 'scroll', () => {
      this.#scroll = this.#frame.scrollTop;
      this.#soon();
    });
    on(canvas, 'pointermove', (event) => this.#point(event));
    on(canvas, 'pointerdown', (event) => this.#point(event));
    on(canvas, 'click', () => this.#follow());
    on(canvas, 'pointerleave', () => this.#aim(null));
    on(canvas, 'keydown', (event) => this.#key(event));
    on(canvas, 'blur', () => this.#aim(null));
    new ResizeObserver(() => this.#resize()).observe(this.#frame);
    new IntersectionObserver(([entry]) => {
      this.#inSight = entry.isIntersecting;
      this.#soon();
    }).observe(this.#frame);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.recolour());
  }

  /** The lanes in the order of the ship: by pool, then by place. Those that left stay while they have a past. */
  #arrange() {
    const order = new Map(this.#store.frame.pools.map((pool, at) => [pool.name, at]));
    const present = new Set(this.#store.frame.workers.map((worker) => worker.id));
    const lanes = [...this.chronicle.lanes.values()].map((lane) => {
      const dash = lane.id.lastIndexOf('-');
      const pool = lane.id.slice(0, dash);
      return { ...lane, pool, place: Number(lane.id.slice(dash + 1)), gone: !present.has(lane.id) };
    });
    lanes.sort((one, other) => (order.get(one.pool) ?? 99) - (order.get(other.pool) ?? 99) || one.place - other.place);
    lanes.forEach((lane, row) => {
      lane.first = row === 0 || lanes[row - 1].pool !== lane.pool;
    });
    const differs = lanes.length !== this.#lanes.length;
    this.#lanes = lanes;
    if (differs) this.#resize();
    this.#soon();
  }

  /** Made when it is drawn: a replay brings a thousand incidents between two frames. */
  get #incidents() {
    this.#charted ??= chart(this.#store.incidents);
    return this.#charted;
  }

  get #laneHeight() {
    return this.#lanes.length <= 24 ? 24 : 16;
  }

  get #gutter() {
    const longest = Math.max(4, ...this.#lanes.map((lane) => lane.id.length));
    return Math.min(Math.round(longest * 6.8) + 12, this.#size.width < 480 ? 62 : 150);
  }

  #resize() {
    const all = AXIS + Math.max(this.#lanes.length, 4) * this.#laneHeight + 2;
    const height = Math.min(all, Math.max(Math.round(innerHeight * 0.6), 240));
    if (this.#frame.style.blockSize !== `${height}px`) this.#frame.style.blockSize = `${height}px`;
    const width = this.#frame.clientWidth;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.#spacer.style.blockSize = `${all - height}px`;
    if (width !== this.#size.width || height !== this.#size.height || ratio !== this.#size.ratio) {
      this.#size = { width, height, ratio };
      this.#canvas.width = Math.round(width * ratio);
      this.#canvas.height = Math.round(height * ratio);
      this.#canvas.style.inlineSize = `${width}px`;
      this.#canvas.style.blockSize = `${height}px`;
    }
    this.#soon();
  }

  #pause() {
    this.#pausedAt = this.#pausedAt === null ? this.#store.now() : null;
    mark(this.#pauseButton, 'aria-pressed', String(this.#pausedAt !== null));
    say(this.#pauseButton, this.#pausedAt === null ? 'Pause' : 'Go on');
    this.#soon();
  }

  #soon() {
    if (this.#inSight) paintFirst(this.#paint);
  }

  #paint = () => {
    clearTimeout(this.#timer);
    if (this.#size.width === 0 || this.#store.frame === null) return;
    this.#colours ??= palette(this.#legend);
    const scene = this.#scene();
    draw(this.#context, scene, this.#colours);
    if (this.#pausedAt !== null) return;
    const half = this.#span.ms / Math.max(scene.width - scene.gutter, 1) / 2;
    this.#timer = setTimeout(() => this.#soon(), this.#calm.matches ? 500 : Math.max(LEAST_MS, half));
  };

  #scene() {
    const now = this.#store.now();
    const to = this.#pausedAt ?? now;
    return {
      ...this.#size,
      gutter: this.#gutter,
      laneHeight: this.#laneHeight,
      scroll: this.#scroll,
      from: to - this.#span.ms,
      to,
      now,
      paused: this.#pausedAt !== null,
      lanes: this.#lanes,
      chronicle: this.chronicle,
      incidents: this.#incidents,
      running: this.#running(),
      cursor: this.#cursor,
    };
  }

  #running() {
    const { frame, frameAt } = this.#store;
    const at = this.#store.now() - (performance.now() - frameAt);
    return frame.workers.flatMap((worker) => worker.holding.slice(0, 1).map((held) => ({
      worker: worker.id,
      request: short(plain(held.request), 160),
      began: at - held.for_ms,
      generation: worker.generation,
    })));
  }

  /** Everything in this lane that can be pointed at, in the order of time. */
  #things(lane) {
    const { from, to } = this.#scene();
    const things = [];
    const book = this.chronicle;
    book.walk(from, (at) => {
      if (book.lane[at] !== lane.slot || book.began[at] > to) return;
      const again = book.delivery[at] > 1 ? `, delivery ${book.delivery[at]}` : '';
      const ended = book.end[at] === LOST ? 'ended by its worker’s death after' : 'took';
      things.push({
        lane: lane.id,
        from: book.began[at],
        to: book.ended[at],
        text:
          `${lane.id}, life ${book.generation[at]}: ${book.request[at]}, began ${clock(book.began[at], true)}, ` +
          `${ended} ${duration(book.ended[at] - book.began[at])}${again}`,
      });
    });
    for (const held of this.#running()) {
      if (held.worker === lane.id) things.push({
        lane: lane.id,
        from: held.began,
        to: this.#store.now(),
        text: `${lane.id}, life ${held.generation}: holds ${held.request} since ${clock(held.began, true)}`,
      });
    }
    for (const incident of this.#incidents) {
      if (incident.worker === lane.id && incident.at >= from && incident.at <= to) things.push({
        lane: lane.id,
        from: incident.at,
        to: incident.at,
        death: incident.id,
        text: incident.text,
      });
    }
    return things.sort((one, other) => one.from - other.from);
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const lane = this.#lanes[Math.floor((y - AXIS + this.#scroll) / this.#laneHeight)];
    const scene = this.#scene();
    if (lane === undefined || y < AXIS || x < scene.gutter) return this.#aim(null);
    const perPixel = this.#span.ms / (scene.width - scene.gutter);
    const time = scene.from + (x - scene.gutter) * perPixel;
    let best = null;
    let distance = REACH * perPixel;
    for (const thing of this.#things(lane)) {
      // A death beats the bar that it ended.
      const favour = thing.death === undefined ? 0 : perPixel;
      const off = Math.max(thing.from - time, time - thing.to, 0) - favour;
      if (off <= distance) [best, distance] = [thing, off];
    }
    return this.#aim(best);
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === ' ') {
      event.preventDefault();
      this.#pause();
      return;
    }
    if (event.key === 'Enter') {
      // Else the same key would press the card's button as soon as that has the focus.
      event.preventDefault();
      this.#follow();
      return;
    }
    if (!event.key.startsWith('Arrow') || this.#lanes.length === 0) return;
    event.preventDefault();
    let row = Math.max(this.#lanes.findIndex((lane) => lane.id === this.#cursor?.lane), 0);
    const time = this.#cursor?.from ?? Infinity;
    if (event.key === 'ArrowUp') row = Math.max(row - 1, 0);
    if (event.key === 'ArrowDown') row = Math.min(row + 1, this.#lanes.length - 1);
    const lane = this.#lanes[row];
    const things = this.#things(lane);
    let found;
    if (event.key === 'ArrowLeft') found = things.findLast((thing) => thing.from < time);
    else if (event.key === 'ArrowRight') found = things.find((thing) => thing.from > time);
    else found = things.findLast((thing) => thing.from <= time) ?? things[0];
    const top = row * this.#laneHeight;
    const room = this.#size.height - AXIS - this.#laneHeight;
    if (top < this.#frame.scrollTop) this.#frame.scrollTop = top;
    if (top > this.#frame.scrollTop + room) this.#frame.scrollTop = top - room;
    if (found !== undefined) this.#aim(found);
    else if (event.key === 'ArrowUp' || event.key === 'ArrowDown') this.#aim({
      lane: lane.id,
      from: time,
      to: time,
      text: `${lane.id}: nothing in this span`,
    });
  }

  /** A death leads to what is known of it. */
  #follow() {
    if (this.#cursor?.death !== undefined) this.#open(this.#cursor.death);
  }

  #aim(thing) {
    if (thing === null && this.#cursor === null) return;
    this.#cursor = thing;
    const { omitted: number } = this.chronicle;
    const omitted = number > 0 ? ` ${plural(number, 'short request is', 'short requests are')} not drawn.` : '';
    say(this.#readout, thing === null ? HINT + omitted : thing.text);
    this.#soon();
  }
}

/** The incidents as the chart needs them: moments instead of texts and steps. */
function chart(incidents) {
  const latest = new Map();
  const list = [];
  for (const incident of incidents.values()) {
    const at = moment(incident.at);
    const steps = incident.steps_ms;
    const moved = incident.held.filter((held) => held.outcome === 'redelivered' && held.to !== null);
    const went = moved.map((held) => `; ${short(plain(held.request), 120)} went to ${held.to}`);
    const replaced = steps.ready === null ? '' : `; replaced in ${duration(steps.ready)}`;
    const entry = {
      id: incident.id,
      worker: incident.worker,
      at,
      spawned: steps.spawned === null ? null : at + steps.spawned,
      ready: steps.ready === null ? null : at + steps.ready,
      next: null,
      arrows: moved.map((held) => ({ to: held.to, at: at + (steps.redelivered ?? 0) })),
      text: `${incident.id} died at ${clock(at, true)}: ${plain(incident.cause.detail)}${went.join('')}${replaced}`,
    };
    // A death in the same place later means that somebody was there again, even if we were not told when.
    const before = latest.get(incident.worker);
    if (before !== undefined) before.next = at;
    latest.set(incident.worker, entry);
    list.push(entry);
  }
  return list;
}
