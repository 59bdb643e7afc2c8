// The story in words beside the timeline, the selected event, and the keys.
const words = document.getElementById("words"), wordRows = document.getElementById("rows");
const detail = document.getElementById("detail"), said = document.getElementById("said"), help = document.getElementById("help");
const filter = document.getElementById("filter");
const LINE = 20;

// Only the lines that are seen are in the document.
function tell() {
  wordRows.style.height = shown.events.length * LINE + "px";
  const first = Math.max(0, Math.floor(words.scrollTop / LINE) - 10);
  const last = Math.min(shown.events.length, Math.ceil((words.scrollTop + words.clientHeight) / LINE) + 10);
  const lines = shown.events.slice(first, last).map((event, number) => {
    const line = element("div", {
      id: `event-${event.index}`, class: `row ${CLASSES[event.kind]}`, role: "option", "aria-setsize": shown.events.length,
      "aria-posinset": first + number + 1, "aria-selected": event === selected, style: `top:${(first + number) * LINE}px`,
    }, element("span", { class: "at" }, clock(event.at)), element("span", { class: "lane" }, lanes[event.lane].name),
    (event.kind === VIOLATION ? "VIOLATED " : "") + event.what.replaceAll("\n", " "));
    line.addEventListener("click", () => select(event));
    return line;
  });
  wordRows.replaceChildren(...lines);
  if (selected) words.setAttribute("aria-activedescendant", `event-${selected.index}`);
  else words.removeAttribute("aria-activedescendant");
}

function toLine(event) {
  const top = place(shown.events, event.index) * LINE;
  if (top < words.scrollTop) words.scrollTop = top;
  else if (top + LINE > words.scrollTop + words.clientHeight) words.scrollTop = top + LINE - words.clientHeight;
}

function select(event, quietly = false) {
  if (!event) return;
  selected = event;
  reveal(event);
  toLine(event);
  tell();
  describe(event);
  draw();
  if (quietly) return;
  said.textContent = `${clock(event.at)}, ${lanes[event.lane].name}: ${event.kind === VIOLATION ? "violated: " : ""}${event.what}`;
  // A copied address leads to the same event.
  try { history.replaceState(null, "", `#event-${event.index}`); } catch { /* a page without an address of its own */ }
}

function describe(event) {
  const lane = lanes[event.lane], list = lane.events, number = place(list, event.index);
  const before = list[number - 1], next = list[number + 1];
  const parts = [
    element("h3", {}, lane.name),
    element("p", { class: "when" }, `${clock(event.at, 1)}${before ? `, ${clock(event.at - before.at, 1)} after the one before on this lane` : ""}; event ${event.index + 1} of ${events.length}`),
    element("p", { class: CLASSES[event.kind] }, (event.kind === VIOLATION ? "Violated: " : "") + event.what),
  ];
  const jump = (label, to) => {
    const button = element("button", { type: "button" }, label);
    button.disabled = !to;
    button.addEventListener("click", () => select(to));
    return button;
  };
  parts.push(element("p", {}, jump("← on this lane", before), " ", jump("on this lane →", next)));
  if (event.patch && event.patch.merge !== undefined) parts.push(element("p", {}, "What changed:"), json(event.patch.merge));
  const object = objectAt(event);
  if (object !== undefined) parts.push(element("details", { open: "" }, element("summary", {}, "The object after it"), json(object)));
  const states = lanes.map((lane) => [lane, stateAt(lane, event.index)]).filter(([, state]) => state && state.state);
  if (states.length) {
    const rows = states.flatMap(([lane, state]) => [element("dt", {}, lane.name), element("dd", {}, `${state.state} since ${clock(state.at)}`)]);
    const open = object === undefined ? { open: "" } : {};
    parts.push(element("details", open, element("summary", {}, "The world at this moment"), element("dl", {}, ...rows)));
  }
  detail.replaceChildren(...parts);
  detail.scrollTop = 0;
}

const json = (value) => element("pre", {}, JSON.stringify(value, null, 2));

// The event so many places away among those that are shown.
function step(by) {
  const list = shown.events;
  if (!list.length) return;
  if (!selected) return select(by > 0 ? list[0] : list[list.length - 1]);
  const at = place(list, selected.index);
  const here = list[at] === selected;
  select(list[Math.min(list.length - 1, Math.max(0, at + (here ? by : by > 0 ? by - 1 : by)))]);
}

function stepLane(by) {
  if (!selected) return step(1);
  const at = shown.lanes.findIndex((lane) => lane.index === selected.lane);
  const lane = shown.lanes[Math.min(shown.lanes.length - 1, Math.max(0, at + by))];
  if (lane) select(nearest(lane.events, selected.at));
}

function next(kind, back) {
  const list = shown.events.filter((event) => event.kind === kind);
  const at = selected ? selected.index : back ? events.length : -1;
  const found = back ? list.findLast((event) => event.index < at) || list[list.length - 1] : list.find((event) => event.index > at) || list[0];
  if (found) select(found);
  else said.textContent = kind === FAULT ? "There is no fault." : "There is no violation.";
}

const actions = {
  in: () => zoom(0.5), out: () => zoom(2), all: () => show(begin, end), help: () => help.showModal(),
  near: () => selected && show(selected.at - (view.to - view.from) / 10, selected.at + (view.to - view.from) / 10),
  violation: (back) => next(VIOLATION, back), fault: (back) => next(FAULT, back),
};
const KEYS = { "+": "in", "=": "in", "-": "out", _: "out", 0: "all", z: "near", "?": "help", v: "violation", V: "violation", f: "fault", F: "fault" };

document.addEventListener("keydown", (key) => {
  if (key.ctrlKey || key.metaKey || key.altKey || help.open) return;
  const typing = key.target instanceof HTMLInputElement;
  if (typing) {
    if (key.key === "Escape") { filter.value = ""; refilter(); words.focus(); }
    if (key.key === "Enter" && key.target === filter) { step(1); words.focus(); }
    return;
  }
  if (key.key === "/") { filter.focus(); return key.preventDefault(); }
  if (KEYS[key.key] !== undefined) { actions[KEYS[key.key]](key.shiftKey); return key.preventDefault(); }
  if (key.target !== chart && key.target !== words) return;
  const page = Math.max(1, Math.floor(words.clientHeight / LINE) - 1), move = (view.to - view.from) / 5;
  const down = (by) => (key.target === chart ? stepLane(by) : step(by));
  const moves = {
    ArrowLeft: () => (key.shiftKey ? show(view.from - move, view.to - move) : step(-1)),
    ArrowRight: () => (key.shiftKey ? show(view.from + move, view.to + move) : step(1)),
    ArrowUp: () => down(-1), ArrowDown: () => down(1), PageUp: () => step(-page), PageDown: () => step(page),
    Home: () => select(shown.events[0]), End: () => select(shown.events[shown.events.length - 1]), Enter: () => detail.focus(),
  };
  if (moves[key.key]) { moves[key.key](); key.preventDefault(); }
});

function refilter() {
  shown.text = filter.value;
  choose();
  document.getElementById("count").textContent =
    shown.events.length === events.length ? `${events.length} events` : `${shown.events.length} of ${events.length} events`;
  layOut();
  tell();
}

// The pointer: drag moves in time, a click selects, Ctrl+wheel zooms where the pointer is.
let drag = null;
chart.addEventListener("pointerdown", (pointer) => {
  drag = { x: pointer.offsetX, from: view.from, to: view.to, moved: false };
  chart.setPointerCapture(pointer.pointerId);
});
chart.addEventListener("pointermove", (pointer) => {
  if (!drag) {
    const [lane, event] = [laneAt(pointer.offsetY), eventAt(pointer.offsetX, pointer.offsetY)];
    chart.title = event ? event.what : lane && pointer.offsetX < labels() ? lane.name : "";
    return;
  }
  if (Math.abs(pointer.offsetX - drag.x) > 3) drag.moved = true;
  const by = ((drag.x - pointer.offsetX) * (drag.to - drag.from)) / Math.max(1, chart.clientWidth - labels());
  if (drag.moved) show(drag.from + by, drag.to + by);
});
chart.addEventListener("pointerup", (pointer) => {
  if (drag && !drag.moved) select(eventAt(pointer.offsetX, pointer.offsetY));
  drag = null;
});
chart.addEventListener("pointercancel", () => { drag = null; });
chart.addEventListener("wheel", (wheel) => {
  if (wheel.ctrlKey || wheel.metaKey) zoom(Math.exp(Math.sign(wheel.deltaY) * 0.25), timeAt(Math.max(labels(), wheel.offsetX)));
  else if (wheel.deltaX || wheel.shiftKey) {
    const by = ((wheel.deltaX || wheel.deltaY) * (view.to - view.from)) / Math.max(1, chart.clientWidth - labels());
    show(view.from + by, view.to + by);
  } else return;
  wheel.preventDefault();
}, { passive: false });
overview.addEventListener("pointerdown", (pointer) => { overview.setPointerCapture(pointer.pointerId); jumpTo(pointer); });
overview.addEventListener("pointermove", (pointer) => { if (pointer.buttons) jumpTo(pointer); });
function jumpTo(pointer) {
  const at = begin + ((pointer.offsetX - labels()) / Math.max(1, overview.clientWidth - labels())) * (end - begin);
  const half = (view.to - view.from) / 2;
  show(at - half, at + half);
}

for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => actions[button.dataset.do](false));
run.groups.forEach((name, index) => {
  const box = element("input", { type: "checkbox", checked: "" });
  box.addEventListener("change", () => { shown.groups[box.checked ? "add" : "delete"](index); refilter(); });
  document.getElementById("groups").append(element("label", {}, box, " ", name));
});
for (const [name, text] of [["good", "as wished"], ["busy", "on its way"], ["over", "going"], ["bad", "wrong"], ["other", "other"]]) {
  const swatch = element("i");
  swatch.style.background = `var(--${name}-bar)`;
  document.getElementById("legend").append(element("span", {}, swatch, text));
}
document.getElementById("legend").append(element("span", {}, "● event"), element("span", {}, "■ failed call"), element("span", {}, "▲ fault"), element("span", {}, "◆ violation"));
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  paint();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
filter.addEventListener("input", refilter);
words.addEventListener("scroll", tell);
scroll.addEventListener("scroll", draw);
new ResizeObserver(() => { layOut(); tell(); }).observe(scroll);
new ResizeObserver(tell).observe(words);
paint();
refilter();
const linked = /^#event-(\d+)$/.exec(location.hash);
select(linked ? events[Number(linked[1])] : events.find((event) => event.kind === VIOLATION), true);
