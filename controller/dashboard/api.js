// The controller's API, as this page uses it: one token, one way to ask, one kind of failure.
//
// Paths are relative to the page, so that it works behind a prefix as well. A token comes from the form or from the
// address (`#token=…`, taken out of the address bar at once, so that it is in no history and no screenshot) and is
// kept in sessionStorage: for this tab, and not for the next one. It is sent in a header and never in a URL.

const KEY = 'bulkhead-token';

/** How long an answer may take. Engines are slow to kill at times; ten seconds is the API's own patience. */
const PATIENCE_MS = 15_000;

/** Why something was not done: the problem that the API told, or what kept us from asking. */
export class Refused extends Error {
  constructor(status, title, detail) {
    super(detail);
    this.status = status;
    this.title = title;
  }
}

let token = kept();

/** Takes a token out of the address, if one is there. Call it before anything is asked. */
export function takeTokenFromAddress() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (found === null) return;
  let value = found[1];
  try {
    value = decodeURIComponent(value);
  } catch {
    // A stray percent sign: it is meant as it stands.
  }
  useToken(value);
  history.replaceState(history.state, '', location.pathname + location.search);
}

/** Uses this token from now on. */
export function useToken(value) {
  token = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // Storage is forbidden: the token lives as long as the page.
  }
}

/** Whether a token is in use. */
export function hasToken() {
  return token !== null;
}

/** `GET api/v1/PATH`, as JSON. */
export async function ask(path) {
  return (await send('GET', path, undefined, AbortSignal.timeout(PATIENCE_MS))).json();
}

/** An order: `POST`, `PUT` or `DELETE` with a JSON body. */
export async function order(method, path, body = {}) {
  const response = await send(method, path, body, AbortSignal.timeout(PATIENCE_MS));
  const text = await response.text();
  return text === '' ? null : JSON.parse(text);
}

/** Opens the stream of events after `after`; `signal` ends it. */
export function openStream(after, signal) {
  // EventSource cannot send a header, hence neither a token; fetch can, and shows the status of a refusal.
  return send('GET', `events?after=${encodeURIComponent(after)}`, undefined, signal, 'text/event-stream');
}

async function send(method, path, body, signal, accept = 'application/json') {
  const headers = { accept };
  if (token !== null) headers.authorization = `Bearer ${token}`;
  const init = { method, headers, signal, cache: 'no-store', redirect: 'error' };
  if (body !== undefined && method !== 'DELETE') {
    headers['content-type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(`api/v1/${path}`, init);
  } catch (error) {
    if (error.name === 'TimeoutError') throw new Refused(
      0,
      'No answer',
      `the controller did not answer within ${PATIENCE_MS / 1000} s; it may still carry the order out`,
    );
    throw new Refused(0, 'No controller', 'no controller answers at this address');
  }
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  try {
    const told = await response.json();
    return new Refused(response.status, String(told.title ?? response.status), String(told.detail ?? told.title));
  } catch {
    return new Refused(
      response.status,
      `Status ${response.status}`,
      `it was refused with status ${response.status} and no reason`,
    );
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}
