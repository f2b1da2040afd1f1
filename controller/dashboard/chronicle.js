// What the timeline remembers: turns that ended, and the spans of which nothing is known.
//
// It is bounded, whatever the load: MOST_TURNS turns in one ring of typed arrays (about 2 MiB), the oldest written
// over first; MOST_LANES lanes; and for each lane one number a second for SECONDS seconds, how long it was busy, so
// that the ten-minute view still has a shape where the ring has forgotten the turns one by one. Deaths are not kept
// here: they are the store's incidents.
//
// Request lines come from strangers and are long at times: they are cut to LONGEST_LINE, and a line that many turns
// share is kept once.

import { plain, short } from './text.js';

export const MOST_TURNS = 32_768;
export const MOST_LANES = 1_024;
export const SECONDS = 600;
const MOST_BLIND = 64;
const LONGEST_LINE = 160;
const MOST_LINES = 4_096;

/** How a turn ended. */
export const DONE = 0;
export const LOST = 1;

export class Chronicle {
  began = new Float64Array(MOST_TURNS);
  ended = new Float64Array(MOST_TURNS);
  lane = new Int16Array(MOST_TURNS).fill(-1);
  end = new Uint8Array(MOST_TURNS);
  delivery = new Uint8Array(MOST_TURNS);
  generation = new Uint32Array(MOST_TURNS);
  turn = new Float64Array(MOST_TURNS);
  request = new Array(MOST_TURNS).fill('');
  /** How many turns were ever written; number `total - 1` is the latest. */
  total = 0;
  /** How many the controller left out of its frames. */
  omitted = 0;
  /** Spans without a connection: `{ from, to }`, where `to` is `null` while it lasts. */
  blind = [];
  /** By worker: `{ slot, id, seen, busy, second }`. */
  lanes = new Map();
  #free = Array.from({ length: MOST_LANES }, (_, at) => MOST_LANES - 1 - at);
  #lines = new Map();

  /** The lane of this worker, made if there is room; `null` if there is none. */
  laneOf(worker, now) {
    let lane = this.lanes.get(worker);
    if (lane === undefined) {
      const slot = this.#free.pop();
      if (slot === undefined) return null;
      lane = { slot, id: worker, seen: now, busy: new Float32Array(SECONDS), second: Math.floor(now / 1000) };
      this.lanes.set(worker, lane);
    }
    lane.seen = now;
    return lane;
  }

  /** Forgets lanes that were not heard of since `before`. */
  forget(before) {
    for (const [id, lane] of this.lanes) {
      if (lane.seen >= before) continue;
      this.lanes.delete(id);
      this.#free.push(lane.slot);
      for (let at = 0; at < MOST_TURNS; at += 1) if (this.lane[at] === lane.slot) this.lane[at] = -1;
    }
  }

  /** A turn that ended; `began` and `ended` are on the controller's clock. */
  add(turn, began) {
    const ended = began + turn.took_ms;
    const lane = this.laneOf(turn.worker, ended);
    if (lane === null) return;
    const at = this.total % MOST_TURNS;
    this.total += 1;
    this.began[at] = began;
    this.ended[at] = ended;
    this.lane[at] = lane.slot;
    this.end[at] = turn.end === 'lost' ? LOST : DONE;
    this.delivery[at] = turn.delivery;
    this.generation[at] = turn.generation;
    this.turn[at] = turn.turn;
    this.request[at] = this.#line(turn.request);
    occupy(lane, began, ended);
  }

  /** From now on nothing is known. */
  lose(now) {
    if (this.blind.at(-1)?.to === null) return;
    this.blind.push({ from: now, to: null });
    if (this.blind.length > MOST_BLIND) this.blind.shift();
  }

  /** Something is known again, or for the first time: of what was before, only the deaths are told. */
  regain(now) {
    if (this.blind.length === 0) this.blind.push({ from: -Infinity, to: now });
    const last = this.blind.at(-1);
    if (last !== undefined && last.to === null) last.to = now;
  }

  /** When the oldest turn in the ring ended; everything before it is only known by the second. */
  oldest() {
    return this.total <= MOST_TURNS ? -Infinity : this.ended[this.total % MOST_TURNS];
  }

  /**
   * Calls `visit(at)` for the turns that ended after `since`, the latest first. Turns come in frames and within a
   * frame in any order, so it looks back one second further before it stops.
   */
  walk(since, visit) {
    const first = Math.max(this.total - MOST_TURNS, 0);
    for (let number = this.total - 1; number >= first; number -= 1) {
      const at = number % MOST_TURNS;
      if (this.ended[at] < since - 1000) return;
      if (this.ended[at] >= since && this.lane[at] !== -1) visit(at);
    }
  }

  #line(request) {
    const line = short(plain(request), LONGEST_LINE);
    const kept = this.#lines.get(line);
    if (kept !== undefined) return kept;
    if (this.#lines.size >= MOST_LINES) this.#lines.clear();
    this.#lines.set(line, line);
    return line;
  }
}

/** Adds the span to the seconds that it covers. */
function occupy(lane, began, ended) {
  const last = Math.floor(ended / 1000);
  advance(lane, last);
  for (let second = Math.max(Math.floor(began / 1000), lane.second - SECONDS + 1); second <= last; second += 1) {
    const share = Math.min(ended, (second + 1) * 1000) - Math.max(began, second * 1000);
    lane.busy[second % SECONDS] = Math.min(lane.busy[second % SECONDS] + share, 1000);
  }
}

/** Clears the seconds between the latest that was written and `second`. */
function advance(lane, second) {
  if (second <= lane.second) return;
  const from = Math.max(lane.second + 1, second - SECONDS + 1);
  for (let at = from; at <= second; at += 1) lane.busy[at % SECONDS] = 0;
  lane.second = second;
}
