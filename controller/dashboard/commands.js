// Every button's equivalent on the command line. Pure: views in, text out.
//
// What a button does is never magic: beside it stands what one could have typed. For a worker that is the engine's
// own word (`docker kill`, `kill -9`), which tells the controller nothing beforehand, or Bulkhead's, which goes the
// way that the button goes. All of it can be pasted into a shell: whatever is not plain is quoted.

/** Where `bulkhead` looks by itself; any other address has to be said. */
const USUAL_API = 'http://127.0.0.1:9090';

/** A word for a POSIX shell. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** `host:port` for somebody at this browser: what listens everywhere is reached where the page came from. */
export function reachable(listen, here) {
  const at = listen.lastIndexOf(':');
  const host = listen.slice(0, at);
  const unspecified = host === '0.0.0.0' || host === '[::]';
  return unspecified ? `${here}${listen.slice(at)}` : listen;
}

/** `bulkhead …`, with the API's address where it is not the usual one. */
export function bulkhead(words, origin) {
  const aside = origin === USUAL_API ? [] : ['--api', origin];
  return ['bulkhead', ...words, ...aside].map(quoted).join(' ');
}

/** The engine's own way to send `signal` (`SIGKILL`) to `worker`; `null` where there is none. */
export function engines(worker, signal) {
  const bare = signal.replace(/^SIG/, '');
  if (worker.container) return `docker kill ${bare === 'KILL' ? '' : `-s ${bare} `}${quoted(worker.container)}`;
  if (worker.pid) return `kill -${bare === 'KILL' ? '9' : bare} ${worker.pid}`;
  return null;
}

/** What the buttons of one worker stand for: `bulkhead kill web-3 --signal SIGSEGV`. */
export function forWorker(action, id, origin) {
  if (action.signal === undefined) return bulkhead(['drain', id], origin);
  return bulkhead(['kill', id, ...signalWords(action.signal)], origin);
}

/** The same for any worker of a pool. There is no word for a random drain, so a shell says it. */
export function forRandom(action, pool, origin) {
  if (action.signal !== undefined) return bulkhead(
    ['kill', 'random', '--pool', pool, ...signalWords(action.signal)],
    origin,
  );
  const list = bulkhead(['ps', '--pool', pool, '--json'], origin);
  return bulkhead(['drain', 'PLACE'], origin).replace('PLACE', `"$(${list} | jq -r '.[].id' | shuf -n 1)"`);
}

/** A request to a pool, as a client sends it: curl takes brackets for patterns and dots for steps unless told not to. */
export function request(pool, path, here) {
  return `curl -s -g --path-as-is ${quoted(`http://${reachable(pool.listen, here)}${path}`)}`;
}

export function scale(pool, workers, origin) {
  return bulkhead(['scale', pool, String(workers)], origin);
}

/** The trickle has no word of its own on the command line: the API is asked. */
export function trickle(pool, spec, origin) {
  const url = quoted(`${origin}/api/v1/pools/${pool}/trickle`);
  if (spec === null) return `curl -s -X DELETE ${url}`;
  return `curl -s -X PUT ${url} -H 'content-type: application/json' -d ${quoted(JSON.stringify(spec))}`;
}

function signalWords(signal) {
  return signal === 'SIGKILL' ? [] : ['--signal', signal];
}
