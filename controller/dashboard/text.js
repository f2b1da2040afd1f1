// Numbers, times and strangers' words, made fit to read. Pure: nothing here touches the page or a clock.
//
// Figures are never rounded to the better side: 0.99997 is 99.99 %, for "100 %" is a claim. What a client or a
// worker wrote is shown as text with its control characters made visible, so that it can neither hide a part of
// itself nor turn the line around.

/** `5.2 ms`, `1.24 s`, `3 min 05 s`; `–` where nothing is known. */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return '–';
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9_995) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, '0')} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, '0')} min`;
}

/** How long something has been going on, for a place that is narrow: `0.42 s`, `12.3 s`, `5:11`, `1:05:11`. */
export function elapsed(ms) {
  if (ms < 1000) return `${(Math.floor(Math.max(ms, 0) / 10) / 100).toFixed(2)} s`;
  if (ms < 60_000) return `${(Math.floor(ms / 100) / 10).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000);
  const two = (number) => String(number).padStart(2, '0');
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${two(seconds % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}

const grouped = new Intl.NumberFormat('en', { useGrouping: 'always' });

/** `1,234`; `–` where nothing is known. */
export function count(number) {
  return number === null || number === undefined ? '–' : grouped.format(number);
}

/** `100 %`, `99.75 %`, rounded down; `–` while nothing was counted. */
export function percent(share) {
  if (share === null || share === undefined) return '–';
  if (share >= 1) return '100 %';
  // The small addition undoes what binary fractions take away: 0.29 * 10000 is 2899.9999999999995.
  return `${(Math.floor(share * 10_000 + 1e-6) / 100).toFixed(2)} %`;
}

/** `1 worker`, `3 workers`. */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** `64.0 MiB`. */
export function bytes(number) {
  if (number === null || number === undefined) return 'unknown';
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  let value = number;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at === 0 ? value : value.toFixed(1)} ${units[at]}`;
}

/** The wall clock of the reader: `13:34:20`, with milliseconds where asked. `ms` counts from the Unix epoch. */
export function clock(ms, withMillis = false) {
  const date = new Date(ms);
  const two = (number) => String(number).padStart(2, '0');
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return withMillis ? `${text}.${String(date.getMilliseconds()).padStart(3, '0')}` : text;
}

/** Milliseconds since the epoch, with their fraction: `Date.parse` drops the microseconds that the API sends. */
export function moment(rfc3339) {
  const whole = Date.parse(rfc3339);
  const digits = /\.\d{3}(\d{1,3})/.exec(rfc3339);
  return digits ? whole + Number(digits[1].padEnd(3, '0')) / 1000 : whole;
}

/** A stranger's words with every control, direction and invisible character spelt out: `⟨U+001B⟩`, `⟨U+202E⟩`. */
export function plain(text) {
  const words = String(text);
  // Nearly all of them are plain already, and this is asked for often.
  if (/^[ -~]*$/.test(words)) return words;
  return words.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (character) => {
    if (character === '\t') return '  ';
    return `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`;
  });
}

/** The API's details begin small and end without a full stop, to be quoted; this makes a sentence of one. */
export function sentence(text) {
  const words = plain(text).trim();
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? '' : '.'}`;
}

/** At most `most` characters, with an ellipsis where some were left out. */
export function short(text, most) {
  return text.length <= most ? text : `${text.slice(0, Math.max(most - 1, 0))}…`;
}
