// Where it begins: the parts are made, the stream is opened, and the state of the connection is said.
//
//   stream ──► store ──► ship, figures, timeline, incidents, journal, orders     (each draws itself, once a frame)
//   orders ──► api                                                       (what comes of it, the stream tells)
//
// First it asks who it is (`whoami`); a refusal shows the form for a token. Then the incidents that are remembered,
// and the stream from the beginning of what the controller remembers, so that the timeline has a past when the page
// is opened. After each reconnect it asks who it is again: the controller may be another one by then.

import { Orders } from './actions.js';
import { ask, hasToken, openStream, takeTokenFromAddress, useToken } from './api.js';
import { el, mark, on, say, shape } from './dom.js';
import { Figures, ofAll, story } from './figures.js';
import { noteMessage, paintSoon } from './frame.js';
import { Incidents } from './incident.js';
import { Journal } from './journal.js';
import { PHASES, Ship } from './ship.js';
import { Store } from './store.js';
import { Stream } from './stream.js';
import { plain, sentence } from './text.js';
import { Timeline } from './timeline.js';

const THEMES = { system: 'as the system', light: 'always light', dark: 'always dark' };
const TOLD = { connecting: '', live: 'Connected: live.', token: 'A token is needed.' };
const MOST_NOTICES = 4;

const at = (id) => document.getElementById(id);
const store = new Store();

takeTokenFromAddress();

const orders = new Orders(
  at('orders'),
  store,
  { chosen: (id) => ship.chosen(id), focusRoom: (id) => ship.focus(id) },
);
const ship = new Ship(at('pools'), store, (id, how) => orders.choose(id, how === 'by keyboard'));
const incidents = new Incidents({
  list: at('incidents'),
  counter: at('incidents-count'),
  more: at('incidents-more'),
  dialog: at('post-mortem'),
  store,
});
const timeline = new Timeline({ section: at('timeline'), store, open: (id) => incidents.show(id) });
new Journal({ details: at('journal'), list: at('events'), region: at('announce'), store });

legend();
headline();
themes();
connection();

function legend() {
  at('states').append(...PHASES.map(([phase, words]) => el(
    'li',
    { 'data-state': phase },
    shape(phase, 'porthole small'),
    el('b', {}, phase),
    el('span', {}, words),
  )));
}

function headline() {
  const figures = new Figures(at('figures-all'), 'all');
  const paint = () => {
    const { frame } = store;
    mark(document.body, 'data-known', true);
    const all = ofAll(frame, store.incidents.values());
    figures.show(all);
    say(at('figures-title'), story(all));
    const { controller, door, engine } = frame;
    const troubles = [
      door.up ? '' : ' · the door is down',
      engine === 'silent' ? ' · the engine is silent' : '',
      engine === 'not_listed_yet' ? ' · the engine was not listed yet' : '',
    ];
    say(at('about'), `${controller.backend} · ${controller.version}${troubles.join('')}`);
    mark(at('about'), 'data-trouble', !door.up || engine !== 'answers');
    document.title = `${frame.pools.reduce((sum, pool) => sum + pool.ready, 0)} ready · Bulkhead`;
  };
  store.addEventListener('state', () => paintSoon(paint));
}

function themes() {
  const button = at('theme');
  const tell = (chosen) => say(button.querySelector('.choice-said'), THEMES[chosen]);
  tell(window.bulkheadTheme.chosen);
  on(button, 'click', () => {
    tell(window.bulkheadTheme.turn());
    timeline.recolour();
  });
}

function connection() {
  const status = at('connection');
  const retry = at('retry');
  const form = at('token-form');
  let state = { is: 'connecting' };

  const stream = new Stream({
    // Who we are comes first: a missing token is found before anything else is asked.
    open: async (after, signal) => {
      store.know(await ask('whoami'));
      scope(store.me);
      if (after === '0') store.takeIncidents(await ask('incidents'));
      return openStream(after, signal);
    },
    heard: (kind, data) => {
      const began = performance.now();
      if (kind === 'gap') gap(data);
      else if (kind === 'dropped') notice(
        'dropped',
        `The controller dropped this page: ${plain(data.why)}. It is connected anew; what happened meanwhile ` +
          'follows, except for single requests.',
      );
      store.hear(kind, data);
      noteMessage(performance.now() - began);
    },
    changed: (next) => {
      state = next;
      if (next.is === 'live') timeline.connected(true);
      else timeline.connected(false);
      form.hidden = next.is !== 'token';
      mark(document.body, 'data-token', next.is === 'token');
      if (next.is === 'token') askForToken(next.why);
      tell();
    },
  });

  const tell = () => {
    const left = Math.max(Math.ceil(((state.until ?? 0) - performance.now()) / 1000), 0);
    const words = {
      connecting: 'connecting',
      live: 'live',
      reconnecting: `reconnecting in ${left} s`,
      dropped: `dropped: reconnecting in ${left} s`,
      token: 'a token is needed',
    };
    mark(status, 'data-connection', state.is);
    // A countdown is for the eye: what is read out is the state, once.
    say(
      at('connection-told'),
      TOLD[state.is] ?? 'The connection is lost; reconnecting.',
    );
    mark(status, 'title', state.why === undefined ? null : plain(state.why));
    say(status.querySelector('.said'), words[state.is]);
    retry.hidden = state.until === undefined;
    mark(document.body, 'data-live', String(state.is === 'live'));
  };
  setInterval(() => {
    if (state.until !== undefined) tell();
  }, 250);

  on(retry, 'click', () => stream.again());
  on(window, 'online', () => {
    if (state.until !== undefined) stream.again();
  });
  on(form, 'submit', (event) => {
    event.preventDefault();
    useToken(at('token').value.trim());
    at('token').value = '';
    stream.again();
  });
  const askForToken = (why) => {
    say(form.querySelector('.why'), hasToken() ? `The token was refused. ${sentence(why)}` : sentence(why));
    at('token').focus();
  };
  stream.run();
}

function scope(me) {
  const chip = at('scope');
  chip.hidden = me === null;
  say(chip, me?.scope ?? '');
  mark(chip, 'data-scope', me?.scope);
}

/** What was missed and cannot be told again. */
function gap({ oldest, why }) {
  const isAnother = why === 'another controller';
  const reason = isAnother ? 'another controller runs now, and the last one’s memory is gone' : 'it is too long ago';
  const rest = oldest === null ? 'Nothing older is remembered.' : 'What is still remembered follows.';
  notice('gap', `Something was missed that cannot be told again: ${reason}. ${rest}`);
  if (isAnother) ask('incidents').then((list) => store.takeIncidents(list), () => {});
}

/** A line at the top that stays until it is dismissed. */
function notice(kind, text) {
  const line = el('p', { class: 'notice', 'data-notice': kind }, el('span', {}, text));
  line.append(on(el('button', { type: 'button', class: 'quiet' }, 'Dismiss'), 'click', () => line.remove()));
  at('notices').append(line);
  while (at('notices').childElementCount > MOST_NOTICES) at('notices').firstElementChild.remove();
}
