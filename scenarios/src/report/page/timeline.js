// The timeline: a canvas that draws only what is seen, so that it stays quick with many events.
const chart = document.getElementById("chart"), overview = document.getElementById("overview");
const scroll = document.getElementById("scroll"), spacer = document.getElementById("spacer");
const ROW = 22, AXIS = 24, TITLE = 20, NEAR = 8;
const view = { from: begin, to: end };
let rows = [], colours = {}, due = false;

const labels = () => Math.min(260, Math.max(110, chart.clientWidth * 0.26));
const x = (at) => labels() + ((at - view.from) / (view.to - view.from)) * (chart.clientWidth - labels());
const timeAt = (px) => view.from + ((px - labels()) / Math.max(1, chart.clientWidth - labels())) * (view.to - view.from);

// Lanes with a title before each group: where each is, without the scrolling.
function layOut() {
  rows = [];
  let top = 0, group = -1;
  for (const lane of shown.lanes) {
    if (lane.group !== group) {
      group = lane.group;
      rows.push({ top, height: TITLE, title: run.groups[group] });
      top += TITLE;
    }
    rows.push({ top, height: ROW, lane });
    top += ROW;
  }
  const seen = scroll.clientHeight;
  chart.style.height = seen + "px";
  spacer.style.height = Math.max(0, top + AXIS - seen) + "px";
  draw();
}

function paint() {
  const probe = document.body.appendChild(document.createElement("span"));
  for (const name of ["ground", "stripe", "panel", "line", "text", "quiet", "accent", "chosen", "good", "busy", "bad", "over",
    "good-bar", "busy-bar", "bad-bar", "over-bar", "other-bar"]) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  draw();
}

function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; drawChart(); drawOverview(); });
}

function surface(canvas) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.fillStyle = colours.ground;
  pen.fillRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  return [pen, width, height];
}

function fitText(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (pen.measureText(text.slice(0, middle) + "…").width <= width) low = middle; else high = middle - 1;
  }
  return low ? text.slice(0, low) + "…" : "";
}

function drawChart() {
  const [pen, width, height] = surface(chart);
  const top = scroll.scrollTop, left = labels();
  pen.save();
  pen.beginPath();
  pen.rect(0, AXIS, width, height - AXIS);
  pen.clip();
  rows.forEach((row, number) => {
    const y = row.top - top + AXIS;
    if (y + row.height < AXIS || y > height) return;
    if (row.title) {
      pen.fillStyle = colours.panel;
      pen.fillRect(0, y, width, row.height);
      pen.fillStyle = colours.quiet;
      pen.font = "600 12px system-ui, sans-serif";
      pen.fillText(row.title, 6, y + row.height / 2);
      pen.font = "12px system-ui, sans-serif";
      return;
    }
    if (number % 2) {
      pen.fillStyle = colours.stripe;
      pen.fillRect(0, y, width, row.height);
    }
    if (selected && selected.lane === row.lane.index) {
      pen.fillStyle = colours.chosen;
      pen.fillRect(0, y, width, row.height);
    }
    pen.fillStyle = colours.text;
    pen.fillText(fitText(pen, row.lane.name, left - 12), 6, y + row.height / 2);
  });
  pen.beginPath();
  pen.rect(left, AXIS, width - left, height - AXIS);
  pen.clip();
  drawMarks(pen, height);
  for (const row of rows) {
    const y = row.top - top + AXIS;
    if (row.lane && y + row.height >= AXIS && y <= height) drawLane(pen, row.lane, y);
  }
  pen.restore();
  drawAxis(pen, width, left);
  chart.removeAttribute("data-at");
  if (selected) {
    const row = rows.find((row) => row.lane && row.lane.index === selected.lane);
    if (row) {
      const [px, py] = [x(selected.at), row.top - top + AXIS + ROW / 2];
      pen.strokeStyle = colours.accent;
      pen.lineWidth = 2;
      if (px >= left && py >= AXIS) pen.strokeRect(px - 7, py - 9, 14, 18);
      pen.lineWidth = 1;
      chart.setAttribute("data-at", `${Math.round(px)} ${Math.round(py)}`);
    }
  }
}

// Faults and violations go through all lanes.
function drawMarks(pen, height) {
  for (const event of shown.events) {
    if ((event.kind !== FAULT && event.kind !== VIOLATION) || event.at < view.from || event.at > view.to) continue;
    pen.strokeStyle = event.kind === FAULT ? colours.busy : colours.bad;
    pen.setLineDash(event.kind === FAULT ? [3, 4] : []);
    pen.beginPath();
    pen.moveTo(Math.round(x(event.at)) + 0.5, AXIS);
    pen.lineTo(Math.round(x(event.at)) + 0.5, height);
    pen.stroke();
  }
  pen.setLineDash([]);
}

function drawLane(pen, lane, y) {
  const list = lane.events, middle = y + ROW / 2, left = labels(), right = chart.clientWidth;
  const first = search(list, view.from), last = search(list, view.to + 1);
  // The states as bars: from the event that began one to the event that begins the next.
  let open = null;
  for (let at = first - 1; at >= 0; at--) if (list[at].state !== null) { open = list[at]; break; }
  const bar = (from, until) => {
    if (!from.state) return;
    const [a, b] = [Math.max(left, x(from.at)), Math.min(right, x(until))];
    const colour = tone(from.state);
    pen.fillStyle = colours[colour + "-bar"];
    pen.fillRect(a, y + 3, Math.max(1, b - a), ROW - 6);
    if (b - a > 30) {
      pen.fillStyle = colour === "other" ? colours.quiet : colours[colour];
      pen.fillText(fitText(pen, from.state, b - a - 16), a + 10, middle);
    }
  };
  for (let at = first; at < last; at++) {
    if (list[at].state === null) continue;
    if (open) bar(open, list[at].at);
    open = list[at];
  }
  if (open) bar(open, Math.min(over, view.to));
  let before = -10, kind = -1;
  for (let at = first; at < last; at++) {
    const event = list[at], px = x(event.at);
    // Those that would hide one another are one mark.
    if (px - before < 1 && event.kind === kind) continue;
    before = px;
    kind = event.kind;
    pen.beginPath();
    if (kind === FAULT) {
      pen.fillStyle = colours.busy;
      pen.moveTo(px, middle - 6); pen.lineTo(px + 6, middle + 5); pen.lineTo(px - 6, middle + 5);
    } else if (kind === VIOLATION) {
      pen.fillStyle = colours.bad;
      pen.moveTo(px, middle - 8); pen.lineTo(px + 6, middle); pen.lineTo(px, middle + 8); pen.lineTo(px - 6, middle);
    } else if (kind === FAILURE) {
      pen.fillStyle = colours.bad;
      pen.rect(px - 3, middle - 3, 6, 6);
    } else {
      pen.fillStyle = colours.text;
      pen.arc(px, middle, 2.5, 0, 7);
    }
    pen.fill();
  }
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500].map((n) => n * 1).concat([1, 2, 5, 10, 20, 50, 100, 200, 500].map((n) => n * 1e3),
  [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400].map((n) => n * 1e6));
function drawAxis(pen, width, left) {
  pen.fillStyle = colours.ground;
  pen.fillRect(0, 0, width, AXIS);
  pen.strokeStyle = colours.line;
  pen.beginPath();
  pen.moveTo(0, AXIS - 0.5); pen.lineTo(width, AXIS - 0.5);
  pen.moveTo(left - 0.5, 0); pen.lineTo(left - 0.5, chart.clientHeight);
  pen.fillStyle = colours.quiet;
  const span = view.to - view.from, least = (span * 90) / Math.max(1, width - left);
  const step = STEPS.find((step) => step >= least) || Math.ceil(least / 86400e6) * 86400e6;
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const px = Math.round(x(at)) + 0.5;
    pen.moveTo(px, AXIS - 6); pen.lineTo(px, AXIS);
    pen.fillText(clock(at, step), px + 3, AXIS / 2 - 1);
  }
  pen.stroke();
}

// How much happened when, and which part of it the timeline shows.
function drawOverview() {
  const [pen, width, height] = surface(overview);
  const left = labels(), across = Math.max(1, Math.floor(width - left)), span = end - begin;
  const counts = new Uint32Array(across);
  const spot = (at) => Math.min(across - 1, Math.floor(((at - begin) / span) * across));
  for (const event of shown.events) counts[spot(event.at)]++;
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  pen.fillStyle = colours.quiet;
  counts.forEach((count, px) => {
    const tall = count ? Math.max(2, Math.sqrt(count / most) * (height - 6)) : 0;
    pen.fillRect(left + px, height - tall, 1, tall);
  });
  for (const event of shown.events) {
    if (event.kind !== FAULT && event.kind !== VIOLATION) continue;
    pen.fillStyle = event.kind === FAULT ? colours.busy : colours.bad;
    pen.fillRect(left + spot(event.at) - 1, 0, 2, height);
  }
  const [a, b] = [left + ((view.from - begin) / span) * across, left + ((view.to - begin) / span) * across];
  pen.fillStyle = colours.accent;
  pen.globalAlpha = 0.18;
  pen.fillRect(a, 0, Math.max(2, b - a), height);
  pen.globalAlpha = 1;
  pen.strokeStyle = colours.accent;
  pen.strokeRect(a + 0.5, 0.5, Math.max(2, b - a - 1), height - 1);
  pen.fillText("the whole run", 6, height / 2);
}

// Shows a part of the run; never less than 100 µs of it, and nothing outside of it.
function show(from, to) {
  const span = Math.min(end - begin, Math.max(100, to - from));
  const start = Math.min(Math.max(begin, from), end - span);
  view.from = start;
  view.to = start + span;
  draw();
}

function zoom(factor, at = selected && selected.at >= view.from && selected.at <= view.to ? selected.at : (view.from + view.to) / 2) {
  show(at - (at - view.from) * factor, at + (view.to - at) * factor);
}

function reveal(event) {
  const span = view.to - view.from;
  if (event.at < view.from || event.at > view.to) show(event.at - span / 2, event.at + span / 2);
  const row = rows.find((row) => row.lane && row.lane.index === event.lane);
  if (!row) return;
  const seen = scroll.clientHeight - AXIS;
  if (row.top < scroll.scrollTop) scroll.scrollTop = Math.max(0, row.top - TITLE);
  else if (row.top + ROW > scroll.scrollTop + seen) scroll.scrollTop = row.top + ROW - seen;
}

function laneAt(py) {
  const y = py - AXIS + scroll.scrollTop;
  const row = py < AXIS ? undefined : rows.find((row) => row.lane && y >= row.top && y < row.top + row.height);
  return row && row.lane;
}

// What is at a point of the chart: an event near it, or the one that began the state there.
function eventAt(px, py) {
  const lane = laneAt(py);
  if (!lane || px < labels()) return null;
  const list = lane.events, near = (NEAR * (view.to - view.from)) / Math.max(1, chart.clientWidth - labels());
  const event = nearest(list, timeAt(px));
  if (Math.abs(event.at - timeAt(px)) <= near) return event;
  const before = list[search(list, timeAt(px)) - 1];
  const state = before && stateAt(lane, before.index);
  return state && state.state ? state : null;
}
