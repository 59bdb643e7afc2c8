// What the page shows: events in order, each on a lane, each lane in a group.
const run = JSON.parse(document.getElementById("run").textContent);
const PLAIN = 0, FAULT = 1, VIOLATION = 2, FAILURE = 3;
const CLASSES = ["", "fault", "violation", "failure"];
const events = run.events.map(([at, lane, what, kind, state, patch], index) => ({ index, at, lane, what, kind, state, patch }));
const lanes = run.lanes.map(([name, group], index) => ({ index, name, group, events: [] }));
for (const event of events) lanes[event.lane].events.push(event);
const begin = events.length ? events[0].at : 0;
const over = Math.max(run.end, events.length ? events[events.length - 1].at : 0, begin + 1000);
// With some room behind the last mark.
const end = over + (over - begin) / 50;

// What is shown: which groups, and what the search leaves.
const shown = { groups: new Set(run.groups.map((_, index) => index)), text: "", events: events, lanes: lanes };
let selected = null;

function choose() {
  const words = shown.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (event) => {
    if (!shown.groups.has(lanes[event.lane].group)) return false;
    if (!words.length) return true;
    const text = (lanes[event.lane].name + " " + event.what).toLowerCase();
    return words.every((word) => text.includes(word));
  };
  shown.events = events.filter(fits);
  const left = new Set(shown.events.map((event) => event.lane));
  shown.lanes = lanes.filter((lane) => left.has(lane.index));
}

// The first place in a list of events that is not before a time.
function search(list, at) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].at < at) low = middle + 1; else high = middle;
  }
  return low;
}

// The place of an event in a list that is ordered as all events are; where it is not in it, of the one after it.
function place(list, index) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].index < index) low = middle + 1; else high = middle;
  }
  return low;
}

function nearest(list, at) {
  const after = search(list, at);
  const [before, next] = [list[after - 1], list[after]];
  if (!before || !next) return before || next;
  return at - before.at <= next.at - at ? before : next;
}

// A time for people, as exact as a span of that many microseconds on the screen needs.
function clock(at, span = 0) {
  const sign = at < 0 ? "-" : "";
  const micros = Math.abs(Math.round(at));
  const seconds = Math.floor(micros / 1e6);
  const digits = span === 0 ? 3 : span < 1e3 ? 6 : span < 1e6 ? 3 : 0;
  const part = digits ? "." + String(micros % 1e6).padStart(6, "0").slice(0, digits) : "";
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  return sign + (hours ? hours + ":" + two(Math.floor(seconds / 60) % 60) : Math.floor(seconds / 60)) + ":" + two(seconds % 60) + part;
}

// RFC 7396: what an object is after a change.
function merge(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const result = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else Object.defineProperty(result, name, { value: merge(result[name], value), enumerable: true, configurable: true, writable: true });
  }
  return result;
}

// The object of an event's lane as it was after the event.
function objectAt(event) {
  let object;
  for (const earlier of lanes[event.lane].events) {
    if (earlier.index > event.index) break;
    if (earlier.patch) object = earlier.patch.whole !== undefined ? earlier.patch.whole : merge(object, earlier.patch.merge);
  }
  return object;
}

// The state of a lane at an event.
function stateAt(lane, index) {
  const list = lane.events;
  for (let at = place(list, index + 1) - 1; at >= 0; at--) if (list[at].state !== null) return list[at];
  return null;
}

// To which colour a state belongs.
const TONES = {
  good: ["running", "succeeded", "bound", "attached", "available", "up", "in-use", "ready"],
  busy: ["pending", "attaching", "creating", "released", "modifying", "wanted", "asking"],
  bad: ["failed", "lost", "busy", "down", "error", "paused", "cut off", "no power", "unknown"],
  over: ["deleting", "detaching"],
};
function tone(state) {
  for (const [name, states] of Object.entries(TONES)) if (states.includes(state.toLowerCase())) return name;
  return "other";
}

function element(name, fields = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(fields)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
