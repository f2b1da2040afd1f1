// When the page is written: once an animation frame, and how long that took.
//
// Whoever has something to draw says so with `paintSoon`; all of it is done in one callback before the browser's
// next frame, so that a burst of events costs one pass and not one each. A painter that was asked for twice runs
// once. A page in the background draws nothing, and draws what is then true when it comes back.
//
// The budget is BUDGET_MS of script a frame, half of what a screen with 60 Hz leaves; the rest is the browser's own
// for style, layout and paint. What was measured stands in `window.__bulkhead`, for tests and for the curious.

const BUDGET_MS = 8;

const waiting = new Set();
const waitingFirst = new Set();
let asked = false;

/** What the frames so far have cost. `reset()` begins anew. */
export const measured = {
  budgetMs: BUDGET_MS,
  frames: 0,
  worstFrameMs: 0,
  overBudget: 0,
  totalMs: 0,
  worstMessageMs: 0,
  reset() {
    this.frames = 0;
    this.worstFrameMs = 0;
    this.overBudget = 0;
    this.totalMs = 0;
    this.worstMessageMs = 0;
  },
};
window.__bulkhead = measured;

/** Runs `painter(now)` in the next frame; `now` is `performance.now()`'s clock. */
export function paintSoon(painter) {
  waiting.add(painter);
  ask();
}

/**
 * The same, before all others: for whoever draws into a canvas. To set a font there makes the browser bring the
 * page's styles up to date, which costs nothing only as long as nobody has written in this frame.
 */
export function paintFirst(painter) {
  waitingFirst.add(painter);
  ask();
}

/** Notes what it cost to read one piece of the stream, which happens outside of frames. */
export function noteMessage(ms) {
  measured.worstMessageMs = Math.max(measured.worstMessageMs, ms);
}

function ask() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(paint);
}

function paint() {
  asked = false;
  const painters = [...waitingFirst, ...waiting];
  waitingFirst.clear();
  waiting.clear();
  const began = performance.now();
  for (const painter of painters) {
    try {
      painter(began);
    } catch (error) {
      // One view that fails must not take the others with it.
      console.error(error);
    }
  }
  const took = performance.now() - began;
  measured.frames += 1;
  measured.totalMs += took;
  measured.worstFrameMs = Math.max(measured.worstFrameMs, took);
  if (took > BUDGET_MS) measured.overBudget += 1;
}
