// Light or dark, before anything is drawn.
//
// This is the one classic script: it runs before the first paint, so that a page that was chosen to be dark never
// flashes light. Without a choice the system decides; the choice is kept in localStorage, or for as long as the
// page lives where that is forbidden. The switch itself is wired up by main.js, through `window.bulkheadTheme`.

(() => {
  'use strict';
  const KEY = 'bulkhead-theme';
  const CHOICES = ['system', 'light', 'dark'];

  let chosen = 'system';
  try {
    const kept = localStorage.getItem(KEY);
    if (CHOICES.includes(kept)) chosen = kept;
  } catch {
    // Storage is forbidden: the choice lives as long as the page.
  }

  function show() {
    if (chosen === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
  }

  show();
  window.bulkheadTheme = {
    get chosen() {
      return chosen;
    },
    /** Goes on to the next of system, light, dark. */
    turn() {
      chosen = CHOICES[(CHOICES.indexOf(chosen) + 1) % CHOICES.length];
      try {
        localStorage.setItem(KEY, chosen);
      } catch {
        // As above.
      }
      show();
      return chosen;
    },
  };
})();
