// The headline: what clients saw, and what it took.
//
// Two shares stand side by side. *Effective* is what clients saw: of the requests that ended, how many were answered
// by a worker. *Actual* is what happened behind it: of the deliveries to workers, how many came to an answer. The
// distance between the two is what redelivery is for.
//
// The pools' figures are the controller's own. In all, counts are summed and shares are taken anew from the sums;
// quantiles cannot be added, so where workers of several pools have died those of recovery are taken over the
// incidents that this page knows, as the controller does per pool.

import { el, mark, say } from './dom.js';
import { count, duration, percent, plural } from './text.js';

const FIGURES = [
  { name: 'answered', label: 'answered', note: 'requests and connections that a worker answered' },
  { name: 'redelivered', label: 'redelivered', note: 'deliveries after the first' },
  { name: 'lost', label: 'lost', note: 'ended by a death, without an answer of a worker' },
  { name: 'deaths', label: 'deaths', note: 'workers that died' },
  {
    name: 'recovery_median',
    label: 'recovery, median',
    show: duration,
    note: 'from a death until the replacement is ready',
  },
  {
    name: 'recovery_p99',
    label: 'recovery, p99',
    show: duration,
    note: 'from a death until the replacement is ready',
  },
  { name: 'queued', label: 'in the queue', note: 'requests that wait for a worker at this moment' },
  { name: 'longest_wait_ms', label: 'longest wait', show: duration, note: 'of those that are in the queue' },
];

const SHARES = [
  { name: 'effective_success', label: 'effective success', note: 'what clients saw' },
  { name: 'actual_success', label: 'actual success', note: 'how many deliveries came to an answer' },
];

/** One list of figures, to be written into `list` (a `dl`). */
export class Figures {
  #cells = new Map();

  constructor(list, of) {
    for (const { name, label, note } of [...FIGURES, ...SHARES]) {
      const value = el('dd', { 'data-figure': name, 'data-of': of }, '–');
      const group = el(
        'div',
        { class: SHARES.some((share) => share.name === name) ? 'figure share' : 'figure', title: note },
        el('dt', {}, label),
        value,
      );
      if (group.classList.contains('share')) group.append(el(
        'dd',
        { class: 'gauge', 'aria-hidden': 'true' },
        el('span'),
      ));
      list.append(group);
      this.#cells.set(name, { group, value, bar: group.querySelector('.gauge span') });
    }
  }

  show(values) {
    for (const { name, show = count } of FIGURES) this.#write(name, values[name], show(values[name]));
    for (const { name } of SHARES) {
      this.#write(name, values[name], percent(values[name]));
      const { bar } = this.#cells.get(name);
      const width = `${((values[name] ?? 0) * 100).toFixed(3)}%`;
      if (bar.style.inlineSize !== width) bar.style.inlineSize = width;
    }
    mark(this.#cells.get('lost').group, 'data-alarm', values.lost > 0);
    mark(this.#cells.get('deaths').group, 'data-alarm', values.deaths > 0);
  }

  #write(name, raw, text) {
    const { value } = this.#cells.get(name);
    say(value, text);
    mark(value, 'data-value', raw ?? '');
  }
}

/** The figures of one pool, out of its view. */
export function ofPool(pool) {
  const { recovery_ms: recovery, ...headline } = pool.headline;
  return {
    ...headline,
    recovery_median: recovery.median,
    recovery_p99: recovery.p99,
    queued: pool.queued,
    longest_wait_ms: pool.queued > 0 ? pool.longest_wait_ms : null,
  };
}

/** The figures of all pools together. */
export function ofAll({ pools, workers }, incidents) {
  const sum = (name) => pools.reduce((total, pool) => total + pool.headline[name], 0);
  const [answered, redelivered, lost] = ['answered', 'redelivered', 'lost'].map(sum);
  const [deaths, deliveries] = ['deaths', 'deliveries'].map(sum);
  // What is under way has not ended either way.
  const held = workers.reduce((total, worker) => total + worker.holding.length, 0);
  const ended = Math.max(deliveries - held, answered);
  const waiting = pools.filter((pool) => pool.queued > 0);
  const recovery = recoveryOf(pools, incidents);
  return {
    answered,
    redelivered,
    lost,
    deaths,
    deliveries,
    effective_success: answered + lost > 0 ? answered / (answered + lost) : null,
    actual_success: ended > 0 ? answered / ended : null,
    recovery_median: recovery.median,
    recovery_p99: recovery.p99,
    queued: pools.reduce((total, pool) => total + pool.queued, 0),
    longest_wait_ms: waiting.length > 0 ? Math.max(...waiting.map((pool) => pool.longest_wait_ms)) : null,
  };
}

/** The headline as a sentence. */
export function story({ deaths, redelivered, lost, answered }) {
  if (deaths === 0 && answered === 0) return 'All is calm. Nothing was asked yet.';
  if (deaths === 0) return `All is calm: ${plural(answered, 'request')} answered, nobody died.`;
  const died = `${plural(deaths, 'worker')} died`;
  const saved = redelivered === 0 ? '' : `, ${plural(redelivered, 'request')} went to another worker`;
  return `${died}${saved}, ${lost === 0 ? 'none was lost' : `${count(lost)} ${lost === 1 ? 'was' : 'were'} lost`}.`;
}

function recoveryOf(pools, incidents) {
  const wounded = pools.map((pool) => pool.headline.recovery_ms).filter((recovery) => recovery.n > 0);
  if (wounded.length === 0) return { median: null, p99: null };
  if (wounded.length === 1) return wounded[0];
  const times = [...incidents].map((incident) => incident.steps_ms.ready).filter((ms) => ms !== null);
  times.sort((one, other) => one - other);
  return { median: quantile(times, 0.5), p99: quantile(times, 0.99) };
}

/** The smallest value that at least the share `at` does not exceed; `sorted` ascends. */
function quantile(sorted, at) {
  if (sorted.length === 0) return null;
  return sorted[Math.max(Math.ceil(at * sorted.length) - 1, 0)];
}
