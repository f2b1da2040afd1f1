// The stream of events, and what state the connection to it is in.
//
//              ┌────────────── answered ──────────────► live ── cut, silent ──┐
//   connecting ┤                                          └──── `dropped` ────┤
//       ▲      ├── 401, 403 ──► token   (waits for a token) ──► connecting    ▼
//       │      └── no answer, other refusals ─────► reconnecting in N s, or dropped
//       └──────────────────────── the wait is over, or "try now" ─────┘
//
// It resumes after the last event that it saw, so a cut costs nothing that the controller still remembers; where it
// does not, the controller says `gap` first, and whoever listens shows that. State frames are not replayed: turns
// that ended while nobody was connected are unknown, and the timeline shows that span as such.
//
// Waits: 0.5 s, then twice as long each time, up to 10 s, each less up to a quarter so that a hundred open pages do
// not come back as one. The first event after a connect begins the waits anew. The controller writes five frames a
// second and a comment at least every 15 s: after SILENCE_MS without a byte the connection is dead, whatever TCP
// thinks.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
const SILENCE_MS = 20_000;

/** The longest line that is believed: a frame of 1,000 workers is well under 1 MiB. */
const LONGEST_LINE = 8 << 20;

/** The wait before attempt number `attempt`, from 0; `chance` in 0..1 takes off up to a quarter. */
export function wait(attempt, chance) {
  const whole = Math.min(FIRST_WAIT_MS * 2 ** Math.min(attempt, 16), LONGEST_WAIT_MS);
  return whole * (1 - chance / 4);
}

/** Server-sent events, read from text that arrives in pieces of any size. */
export class EventReader {
  #rest = '';
  #kind = '';
  #data = [];
  #id = null;

  /** The events that this piece completes: `{ kind, data, id }`, where `id` is null if the event had none. */
  push(piece) {
    const events = [];
    const text = this.#rest + piece;
    let from = 0;
    for (let to = text.indexOf('\n'); to !== -1; to = text.indexOf('\n', from)) {
      const line = text.slice(from, text[to - 1] === '\r' && to > from ? to - 1 : to);
      from = to + 1;
      if (line !== '') this.#field(line);
      else if (this.#data.length > 0) {
        events.push({ kind: this.#kind || 'message', data: this.#data.join('\n'), id: this.#id });
        this.#clear();
      } else this.#clear();
    }
    this.#rest = text.slice(from);
    if (this.#rest.length > LONGEST_LINE) throw new Error('a line of the stream is too long');
    return events;
  }

  #field(line) {
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const name = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (name === 'event') this.#kind = value;
    else if (name === 'data') this.#data.push(value);
    else if (name === 'id') this.#id = value;
  }

  #clear() {
    this.#kind = '';
    this.#data = [];
    this.#id = null;
  }
}

/**
 * Reads the stream for ever.
 *
 * `open(after, signal)` gives a response or throws what has a `status`; `heard(kind, data)` is called for every event
 * with its parsed JSON; `changed(state)` for each state of the drawing above: `{ is, why, until }`, where `until` is
 * on `performance.now()`'s clock. `dropped` is a `reconnecting` whose reason is that we were too slow.
 */
export class Stream {
  #open;
  #heard;
  #changed;
  #last = '0';
  #attempt = 0;
  #wake = null;

  constructor({ open, heard, changed }) {
    this.#open = open;
    this.#heard = heard;
    this.#changed = changed;
  }

  /** Ends a wait: "try now", a token was typed in, the network is back. */
  again() {
    this.#wake?.();
  }

  async run() {
    for (;;) {
      this.#changed({ is: 'connecting' });
      let end;
      try {
        end = await this.#once();
      } catch (error) {
        if (error.status === 401 || error.status === 403) {
          this.#changed({ is: 'token', why: error.message });
          await this.#sleep(null);
          continue;
        }
        end = { is: 'reconnecting', why: error.message };
      }
      const ms = wait(this.#attempt, Math.random());
      this.#attempt += 1;
      this.#changed({ ...end, until: performance.now() + ms });
      await this.#sleep(ms);
    }
  }

  /** One connection, from opening it to its end; gives how it ended. */
  async #once() {
    const cut = new AbortController();
    let watch = setTimeout(() => cut.abort(), SILENCE_MS);
    try {
      const response = await this.#open(this.#last, cut.signal);
      const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const reader = new EventReader();
      let live = false;
      for (;;) {
        const { value, done } = await pieces.read();
        if (done) return { is: 'reconnecting', why: 'the controller ended the stream' };
        clearTimeout(watch);
        watch = setTimeout(() => cut.abort(), SILENCE_MS);
        for (const event of reader.push(value)) {
          if (!live) {
            live = true;
            this.#attempt = 0;
            this.#changed({ is: 'live' });
          }
          if (event.id !== null) this.#last = event.id;
          // What we asked for is not there any more; to ask for it again would only yield the same gap.
          if (event.kind === 'gap') this.#last = '0';
          const data = JSON.parse(event.data);
          this.#heard(event.kind, data);
          if (event.kind === 'dropped') return { is: 'dropped', why: data.why };
        }
      }
    } catch (error) {
      if (cut.signal.aborted) throw new Error(`nothing was heard for ${SILENCE_MS / 1000} s`);
      if (error.status === undefined && error.name !== 'SyntaxError') throw new Error('the connection was cut');
      throw error;
    } finally {
      clearTimeout(watch);
      cut.abort();
    }
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = ms === null ? null : setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
