// What the page knows: the latest frame, the incidents, the journal's tail. Fold in, tell who listens.
//
// It is the one place that remembers, and everything in it is bounded: the latest frame only, MOST_INCIDENTS
// incidents (as many as the controller keeps), MOST_EVENTS lines of the journal, one wound a worker. Events may come
// twice, since a resumed stream overlaps with what was seen before a gap; a number that was seen is passed over, and
// an incident replaces what was known of it.
//
// The clock. Times in frames are the controller's, and this page may run on another machine. The smallest distance
// between the two clocks that was ever seen belongs to the message that travelled fastest; it stands for the truth,
// and gives way by a millisecond a frame, for clocks drift. One that is off by more than CLOCK_SET_MS was set.
//
// Paused. The controller does not know a stopped worker from one that thinks for long: SIGSTOP is between the kernel
// and the worker. So whoever looks remembers it: from its own orders, and from the journal's `kill_requested`, until
// SIGCONT or the end of that life.

import { moment } from './text.js';

const MOST_INCIDENTS = 1000;
const MOST_EVENTS = 200;
const CLOCK_SET_MS = 5_000;

/** How long a compartment shows that it was flooded, at least: a replacement may be there after 5 ms. */
export const WOUND_MS = 9_000;

export class Store extends EventTarget {
  /** The latest `state` frame; `null` before the first. */
  frame = null;
  /** When it came, on `performance.now()`'s clock. */
  frameAt = 0;
  /** By id; the latest last. */
  incidents = new Map();
  /** The journal's tail, the latest last. */
  events = [];
  /** By worker: the generation that was stopped. */
  paused = new Map();
  /** By worker: `{ generation, seenAt, incident }` of its latest death, `seenAt` on `performance.now()`'s clock. */
  wounds = new Map();
  /** What the API said of us; `null` while unknown. */
  me = null;
  #offset = null;
  #seen = { boot: '', number: 0 };

  /** The controller's clock, in milliseconds since the epoch. */
  now() {
    return performance.timeOrigin + performance.now() + (this.#offset ?? 0);
  }

  /** The scope is known, or another token came. */
  know(me) {
    this.me = me;
    this.#tell('me', me);
  }

  /** Everything that the controller remembers of incidents, in place of what we had. */
  takeIncidents(list) {
    this.incidents.clear();
    for (const incident of [...list].sort((one, other) => moment(one.at) - moment(other.at))) this.#keep(incident);
    this.#tell('incidents', { live: false });
  }

  /** One event of the stream. */
  hear(kind, data) {
    if (kind === 'state') return this.#state(data);
    if (kind === 'gap' || kind === 'dropped') return this.#tell(kind, data);
    if (!this.#isNew(data.id)) return undefined;
    this.events.push(data);
    if (this.events.length > MOST_EVENTS) this.events.splice(0, this.events.length - MOST_EVENTS);
    if (kind === 'worker') this.#worker(data);
    if (kind === 'incident') this.#incident(data);
    return this.#tell('journal', data);
  }

  /** Whether this happened just now, rather than being told of the past after a reconnect. */
  isFresh(at) {
    return this.now() - moment(at) < 3_000;
  }

  /** The worker's phase as people see it: stopped workers are `paused`. */
  phase(worker) {
    const held = this.paused.get(worker.id) === worker.generation;
    return held && (worker.phase === 'busy' || worker.phase === 'idle') ? 'paused' : worker.phase;
  }

  /** A signal was sent from this page. */
  signalled(worker, signal) {
    const generation = this.worker(worker)?.generation;
    this.#pause(worker, generation, signal);
    this.#tell('paused', worker);
  }

  worker(id) {
    return this.frame?.workers.find((worker) => worker.id === id);
  }

  pool(name) {
    return this.frame?.pools.find((pool) => pool.name === name);
  }

  #state(frame) {
    const here = performance.timeOrigin + performance.now();
    const offset = moment(frame.at) - here;
    const isAnew = this.#offset === null || offset > this.#offset || this.#offset - offset > CLOCK_SET_MS;
    this.#offset = isAnew ? offset : this.#offset - 1;
    this.frame = frame;
    this.frameAt = performance.now();
    const present = new Set(frame.workers.map((worker) => worker.id));
    for (const known of [this.paused, this.wounds]) {
      for (const id of known.keys()) if (!present.has(id)) known.delete(id);
    }
    this.#tell('state', frame);
  }

  #worker({ worker, generation, what, detail }) {
    if (what === 'kill_requested') this.#pause(worker, generation, detail ?? '');
    if (what === 'died' || what === 'link_closed') this.paused.delete(worker);
  }

  #pause(worker, generation, signal) {
    if (/\b(SIG)?STOP\b/.test(signal)) this.paused.set(worker, generation);
    if (/\b(SIG)?CONT\b/.test(signal)) this.paused.delete(worker);
  }

  #incident({ incident }) {
    this.#keep(incident);
    this.#tell('incidents', { live: true, incident });
  }

  #keep(incident) {
    // Set again, an incident keeps its place, which is the order of the deaths.
    this.incidents.set(incident.id, incident);
    if (this.incidents.size > MOST_INCIDENTS) this.incidents.delete(this.incidents.keys().next().value);
    const generation = Number(incident.id.slice(incident.id.lastIndexOf('.') + 1));
    const known = this.wounds.get(incident.worker);
    if (known !== undefined && known.generation > generation) return;
    const seenAt = known?.generation === generation ? known.seenAt : performance.now() - this.#age(incident);
    this.wounds.set(incident.worker, { generation, seenAt, incident });
  }

  #age(incident) {
    return this.#offset === null ? WOUND_MS : Math.max(this.now() - moment(incident.at), 0);
  }

  #isNew(id) {
    const [boot, number] = String(id).split('-');
    if (boot !== this.#seen.boot) this.#seen = { boot, number: 0 };
    if (Number(number) <= this.#seen.number) return false;
    this.#seen.number = Number(number);
    return true;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
