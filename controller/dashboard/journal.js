// The events as text, for eyes and for screen readers.
//
// The list holds what the store holds of the journal, the latest first; it is written only while it is open. The live
// region tells deaths and recoveries, one sentence every PAUSE_MS at most: a storm of deaths is counted and not read
// out one by one. What is told of the past after a reconnect is not announced.

import { el, Keyed, on } from './dom.js';
import { paintSoon } from './frame.js';
import { cause, outcome } from './incident.js';
import { clock, duration, moment, plain, plural, short } from './text.js';

const PAUSE_MS = 2_500;

export class Journal {
  #store;
  #details;
  #region;
  #list;
  #deaths = [];
  #told = new Set();
  #timer = null;

  constructor({ details, list, region, store }) {
    this.#store = store;
    this.#details = details;
    this.#region = region;
    this.#list = new Keyed(list, {
      key: (event) => event.id,
      make: (event) => ({
        root: el(
          'li',
          {},
          el('time', { datetime: event.at }, clock(moment(event.at), true)),
          el('span', {}, line(event)),
        ),
      }),
      update: () => {},
    });
    on(details, 'toggle', () => paintSoon(this.#paint));
    store.addEventListener('journal', () => paintSoon(this.#paint));
    store.addEventListener('incidents', ({ detail }) => {
      if (detail.live && store.isFresh(detail.incident.at)) this.#announce(detail.incident);
    });
  }

  #paint = () => {
    if (this.#details.open) this.#list.show([...this.#store.events].reverse());
  };

  #announce(incident) {
    if (this.#told.has(incident.id)) return;
    this.#told.add(incident.id);
    if (this.#told.size > 1000) this.#told.delete(this.#told.values().next().value);
    this.#deaths.push(incident.id);
    // A moment later more is known of it, and of the others of the same storm.
    this.#timer ??= setTimeout(() => this.#tell(), PAUSE_MS);
  }

  #tell() {
    this.#timer = null;
    const incidents = this.#deaths.map((id) => this.#store.incidents.get(id)).filter(Boolean);
    this.#deaths = [];
    if (incidents.length === 0) return;
    const back = incidents.filter((incident) => incident.steps_ms.ready !== null);
    const places = [...new Set(incidents.map((incident) => incident.worker))].join(', ');
    const mended = back.length === incidents.length ? 'All are replaced.' : `${back.length} are replaced.`;
    const many = `${plural(incidents.length, 'worker')} died: ${short(places, 120)}. ${mended}`;
    const text = incidents.length === 1 ? obituary(incidents[0]) : many;
    this.#region.replaceChildren(el('p', {}, text));
  }
}

function obituary(incident) {
  const held = incident.held.map((each) => `${short(plain(each.request), 80)} was ${outcome(each)}.`).slice(0, 3);
  const replaced = incident.steps_ms.ready === null ? '' : ` Replaced in ${duration(incident.steps_ms.ready)}.`;
  return `${incident.worker} died: ${cause(incident)}. ${held.join(' ')}${replaced}`;
}

function line(event) {
  const detail = event.detail ? `: ${short(plain(event.detail), 200)}` : '';
  const what = String(event.what ?? '').replaceAll('_', ' ');
  switch (event.kind) {
    case 'worker':
      return `${event.worker}, life ${event.generation}: ${what}${detail}`;
    case 'incident': {
      const { incident, stage } = event;
      const held = incident.held.map((each) => `; ${short(plain(each.request), 120)}: ${outcome(each)}`).join('');
      const end = incident.complete ? `; replaced in ${duration(incident.steps_ms.ready)}` : '';
      return `incident ${incident.id} ${stage}: ${cause(incident)}${held}${end}`;
    }
    case 'pool':
      return `pool ${event.pool}: ${what}${detail}`;
    case 'trickle':
      return `trickle to ${event.pool} ${what}${detail}`;
    default:
      return `${event.kind}: ${what}${detail}`;
  }
}
