// Draws the timeline into a canvas: lanes, turns, deaths, arrows, the axis.
//
// It draws what it is given and remembers nothing, so that a frame can be drawn again from the same scene. Only lanes
// that are in sight are drawn. A turn that would fall on a pixel that its lane has painted already is passed over, so
// that the cost of a frame is bounded by the pixels and not by the turns: a thousand turns a second look like, and
// cost as much as, one long bar.
//
// Colours are read from the legend's own swatches, so that chart and legend cannot disagree, in light and in dark.

import { LOST, SECONDS } from './chronicle.js';
import { clock, short } from './text.js';

export const AXIS = 26;
const MONO = '11px ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace';
const SANS = '11px system-ui, "Segoe UI", "Liberation Sans", sans-serif';
/** The width of a character of MONO at 11 px, near enough to cut off a label in time. */
const CHARACTER = 6.7;

/** The legend's colours, by mark. */
export function palette(legend) {
  const colours = {};
  for (const swatch of legend.querySelectorAll('.mark')) {
    const name = [...swatch.classList].find((each) => each.startsWith('mark-')).slice(5);
    const style = getComputedStyle(swatch);
    colours[name] = style.color;
    colours[`${name}Ink`] = style.outlineColor;
  }
  const style = getComputedStyle(legend);
  colours.ink = style.color;
  colours.line = style.outlineColor;
  colours.paper = style.textDecorationColor;
  return colours;
}

/**
 * Draws one frame.
 *
 * `scene`: `{ width, height, ratio, gutter, laneHeight, scroll, from, to, lanes: [{ id, slot, pool, first }],
 * chronicle, incidents, running, cursor }`, times in milliseconds on the controller's clock.
 */
export function draw(context, scene, colours) {
  const { width, height, ratio, gutter } = scene;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const view = {
    ...scene,
    colours,
    plot: width - gutter,
    x: (time) => gutter + ((time - scene.from) / (scene.to - scene.from)) * (width - gutter),
    top: (row) => AXIS + row * scene.laneHeight - scene.scroll,
    rows: new Map(scene.lanes.map((lane, row) => [lane.id, row])),
    slots: new Map(scene.lanes.map((lane, row) => [lane.slot, row])),
    isShown(row) {
      return row !== undefined && this.top(row) > -this.laneHeight && this.top(row) < height;
    },
  };
  context.save();
  context.beginPath();
  context.rect(0, AXIS, width, height - AXIS);
  context.clip();
  drawLanes(context, view);
  context.save();
  context.beginPath();
  context.rect(gutter, AXIS, width - gutter, height - AXIS);
  context.clip();
  drawGrid(context, view);
  drawWater(context, view);
  drawSeconds(context, view);
  drawTurns(context, view);
  drawRunning(context, view);
  drawBlind(context, view);
  drawArrows(context, view);
  drawDeaths(context, view);
  drawCursor(context, view);
  context.restore();
  context.restore();
  drawAxis(context, view);
}

/** The distance between the axis' labels: about one every 90 pixels, at a round number of seconds. */
export function step(spanMs, plot) {
  const least = (spanMs / Math.max(plot, 1)) * 90;
  return [1, 2, 5, 10, 15, 20, 30, 60, 120, 300].map((seconds) => seconds * 1000).find((ms) => ms >= least) ?? 300_000;
}

function drawLanes(context, view) {
  const { colours, width, gutter, laneHeight } = view;
  context.font = MONO;
  context.textBaseline = 'middle';
  context.textAlign = 'left';
  view.lanes.forEach((lane, row) => {
    if (!view.isShown(row)) return;
    const top = view.top(row);
    context.fillStyle = colours.ink;
    context.globalAlpha = lane.gone ? 0.5 : 1;
    context.fillText(short(lane.id, Math.floor((gutter - 8) / CHARACTER)), 2, top + laneHeight / 2 + 0.5);
    context.globalAlpha = lane.first && row > 0 ? 1 : 0.35;
    context.fillStyle = colours.line;
    context.fillRect(0, top, width, 1);
    context.globalAlpha = 1;
  });
}

function drawGrid(context, view) {
  const every = step(view.to - view.from, view.plot);
  context.fillStyle = view.colours.line;
  context.globalAlpha = 0.5;
  for (let time = Math.ceil(view.from / every) * every; time <= view.to; time += every) context.fillRect(
    Math.round(view.x(time)),
    AXIS,
    1,
    view.height,
  );
  context.globalAlpha = 1;
}

function drawAxis(context, view) {
  const { colours, gutter, width } = view;
  const every = step(view.to - view.from, view.plot);
  context.font = SANS;
  context.textBaseline = 'middle';
  context.fillStyle = colours.ink;
  context.textAlign = 'center';
  for (let time = Math.ceil(view.from / every) * every; time <= view.to; time += every) {
    const x = view.x(time);
    if (x < gutter + 24 || x > width - 64) continue;
    context.fillText(clock(time), x, AXIS / 2);
    context.fillRect(Math.round(x), AXIS - 4, 1, 4);
  }
  context.textAlign = 'right';
  context.fillText(view.paused ? clock(view.to) : 'now', width - 4, AXIS / 2);
  context.textAlign = 'left';
  context.fillText('time', 2, AXIS / 2);
  context.fillStyle = colours.line;
  context.fillRect(0, AXIS - 1, width, 1);
}

/** Nobody there: from the death until the replacement is ready, the last part hatched as it comes up. */
function drawWater(context, view) {
  for (const incident of view.incidents) {
    const row = view.rows.get(incident.worker);
    if (!view.isShown(row)) continue;
    const lane = view.lanes[row];
    const until = incident.ready ?? incident.next ?? (lane.gone ? lane.seen : view.now);
    if (until < view.from || incident.at > view.to) continue;
    const [left, right] = [view.x(incident.at), Math.max(view.x(until), view.x(incident.at) + 2)];
    const top = view.top(row) + 2;
    context.fillStyle = view.colours.water;
    context.fillRect(left, top, right - left, view.laneHeight - 3);
    context.fillStyle = view.colours.waterInk;
    context.fillRect(left, top + view.laneHeight - 4.5, right - left, 1.5);
    if (incident.spawned === null) continue;
    const from = Math.max(view.x(incident.spawned), left);
    hatch(context, from, top, right - from, view.laneHeight - 3, view.colours.coming);
  }
}

/** Where single turns are forgotten: how busy each second was, as a height. */
function drawSeconds(context, view) {
  const until = Math.min(view.chronicle.oldest(), view.to);
  if (until <= view.from) return;
  context.fillStyle = view.colours.turn;
  view.lanes.forEach((lane, row) => {
    if (!view.isShown(row) || lane.busy === undefined) return;
    const first = Math.max(Math.floor(view.from / 1000), lane.second - SECONDS + 1);
    for (let second = first; second * 1000 < until && second <= lane.second; second += 1) {
      const share = lane.busy[second % SECONDS] / 1000;
      if (share < 0.004) continue;
      const tall = Math.max(share * (view.laneHeight - 6), 1);
      const left = view.x(second * 1000);
      context.fillRect(
        left,
        view.top(row) + view.laneHeight - 3 - tall,
        Math.max(view.x(second * 1000 + 1000) - left, 1),
        tall,
      );
    }
  });
}

function drawTurns(context, view) {
  const { chronicle, colours, laneHeight } = view;
  const painted = new Map();
  const labels = [];
  const bars = { turn: [], again: [], lost: [] };
  chronicle.walk(view.from, (at) => {
    const row = view.slots.get(chronicle.lane[at]);
    if (!view.isShown(row) || chronicle.began[at] > view.to) return;
    const left = view.x(chronicle.began[at]);
    const right = Math.max(view.x(chronicle.ended[at]), left + 1.5);
    const kind = chronicle.end[at] === LOST ? 'lost' : chronicle.delivery[at] > 1 ? 'again' : 'turn';
    // The latest come first: what lies wholly in a pixel that is painted already is not seen.
    const edge = painted.get(row);
    if (kind === 'turn' && edge !== undefined && Math.floor(left) >= edge && right - left < 2) return;
    painted.set(row, edge === undefined ? Math.floor(left) : Math.min(edge, Math.floor(left)));
    bars[kind].push(left, view.top(row), right - left);
    if (laneHeight >= 20 && right - left > 60) labels.push([left, right, view.top(row), chronicle.request[at], kind]);
  });
  for (const [kind, list] of Object.entries(bars)) {
    context.fillStyle = colours[kind];
    for (let at = 0; at < list.length; at += 3) bar(context, list[at], list[at + 1], list[at + 2], laneHeight);
  }
  context.font = MONO;
  context.textAlign = 'left';
  context.textBaseline = 'middle';
  for (const [left, right, top, text, kind] of labels) label(
    context,
    view,
    left,
    right,
    top,
    text,
    colours[`${kind}Ink`],
  );
}

/** What is held at this moment grows to the right edge. */
function drawRunning(context, view) {
  context.font = MONO;
  context.textAlign = 'left';
  context.textBaseline = 'middle';
  for (const held of view.running) {
    const row = view.rows.get(held.worker);
    if (!view.isShown(row) || held.began > view.to) continue;
    const left = Math.max(view.x(held.began), view.gutter - 4);
    const right = view.x(Math.min(view.now, view.to));
    context.fillStyle = view.colours.turn;
    bar(context, left, view.top(row), Math.max(right - left, 1.5), view.laneHeight);
    if (view.laneHeight >= 20 && right - left > 60) label(
      context,
      view,
      left,
      right,
      view.top(row),
      held.request,
      view.colours.turnInk,
    );
  }
}

function bar(context, left, top, width, laneHeight) {
  const tall = laneHeight - (laneHeight >= 20 ? 8 : 4);
  const y = top + (laneHeight - tall) / 2 + 0.5;
  const shown = width > 3 ? width - 1 : width;
  if (shown < 6) context.fillRect(left, y, shown, tall);
  else {
    context.beginPath();
    context.roundRect(left, y, shown, tall, 2.5);
    context.fill();
  }
}

function label(context, view, left, right, top, text, colour) {
  const from = Math.max(left, view.gutter) + 5;
  const most = Math.floor((right - from - 5) / CHARACTER);
  if (most < 6) return;
  context.fillStyle = colour;
  context.fillText(short(text, most), from, top + view.laneHeight / 2 + 1);
}

function drawBlind(context, view) {
  context.globalAlpha = 0.45;
  for (const { from, to } of view.chronicle.blind) {
    const [left, right] = [Math.max(view.x(from), view.gutter), view.x(to ?? view.now)];
    if (right < view.gutter || left > view.width) continue;
    hatch(context, left, AXIS, Math.max(right - left, 2), view.height - AXIS, view.colours.blind, 12);
  }
  context.globalAlpha = 1;
}

/** From the lane of the one who died to the lane of the one who answered. */
function drawArrows(context, view) {
  context.strokeStyle = view.colours.arrow;
  context.fillStyle = view.colours.arrow;
  // Between many lanes the arrows are long, and stand back.
  const isLong = view.lanes.length > 24;
  context.lineWidth = isLong ? 1.1 : 1.5;
  context.globalAlpha = isLong ? 0.6 : 1;
  for (const incident of view.incidents) {
    for (const { to, at } of incident.arrows) {
      const [one, other] = [view.rows.get(incident.worker), view.rows.get(to)];
      if (one === undefined || other === undefined || (!view.isShown(one) && !view.isShown(other))) continue;
      const [x1, x2] = [view.x(incident.at), view.x(at)];
      if (x2 < view.gutter || x1 > view.width) continue;
      const middle = view.laneHeight / 2;
      const [y1, y2] = [view.top(one) + middle, view.top(other) + middle];
      const down = y2 > y1 ? 1 : -1;
      const tip = y2 - down * (view.laneHeight / 2 - 4);
      const bow = Math.min(Math.abs(y2 - y1) * 0.3, 26) + 5;
      context.beginPath();
      context.moveTo(x1, y1 + down * 5);
      context.bezierCurveTo(x1 + bow, y1 + (y2 - y1) * 0.35, x2 + bow, y1 + (y2 - y1) * 0.7, x2 + 1, tip - down * 4);
      context.stroke();
      context.beginPath();
      context.moveTo(x2, tip + down * 2);
      context.lineTo(x2 - 2.5, tip - down * 6);
      context.lineTo(x2 + 6, tip - down * 4);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}

function drawDeaths(context, view) {
  for (const incident of view.incidents) {
    const row = view.rows.get(incident.worker);
    if (!view.isShown(row)) continue;
    const [x, y] = [view.x(incident.at), view.top(row) + view.laneHeight / 2];
    if (x < view.gutter - 6 || x > view.width + 6) continue;
    const arm = view.laneHeight >= 20 ? 4.5 : 3.5;
    for (const [colour, width] of [[view.colours.paper, 5], [view.colours.death, 2.4]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.lineCap = 'round';
      context.beginPath();
      context.moveTo(x - arm, y - arm);
      context.lineTo(x + arm, y + arm);
      context.moveTo(x + arm, y - arm);
      context.lineTo(x - arm, y + arm);
      context.stroke();
    }
    context.lineCap = 'butt';
  }
}

function drawCursor(context, view) {
  const { cursor } = view;
  if (cursor === null) return;
  const row = view.rows.get(cursor.lane);
  if (!view.isShown(row)) return;
  const left = Math.max(view.x(cursor.from), view.gutter + 1);
  const right = Math.max(view.x(cursor.to), left + 4);
  context.strokeStyle = view.colours.ink;
  context.lineWidth = 2;
  context.strokeRect(left - 3, view.top(row) + 2, right - left + 6, view.laneHeight - 3);
}

function hatch(context, left, top, width, height, colour, gap = 6) {
  if (width < 1) return;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1.3;
  context.beginPath();
  // The lines hang on the page and not on the span, so that they stand still while it grows.
  for (let x = Math.floor((left - height) / gap) * gap; x < left + width; x += gap) {
    context.moveTo(x, top + height);
    context.lineTo(x + height, top);
  }
  context.stroke();
  context.restore();
}
