// The small button that copies a command.
//
// Browsers give the clipboard to pages on https and on localhost only. Elsewhere the old way is tried, which selects
// the text; where that fails too, the text stays selected and the button says which keys finish the job.

import { el, mark, on, shape } from './dom.js';

const SHOWN_MS = 1_600;

/** A button that copies what `text()` gives at the time of the press. */
export function copyButton(text) {
  const said = el('span', { class: 'copied', role: 'status' });
  const button = el(
    'button',
    {
      type: 'button',
      class: 'copy',
      'data-action': 'copy',
      'aria-label': 'Copy the command',
      title: 'Copy the command',
    },
    shape('copy'),
    said,
  );
  return on(button, 'click', async () => {
    const done = (await write(text())) || select(button.parentElement.querySelector('code'));
    said.textContent = done ? 'copied' : 'press Ctrl-C';
    mark(button, 'data-copied', String(done));
    setTimeout(() => {
      said.textContent = '';
      mark(button, 'data-copied', null);
    }, SHOWN_MS);
  });
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function select(code) {
  if (code === null) return false;
  getSelection().selectAllChildren(code);
  return document.execCommand('copy');
}
