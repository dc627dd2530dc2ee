// @ts-check
// Session page: opening and closing rows without a reload, keys, and an axis that follows the rows in
// view. A short session enhances the rows that the server drew; a long one is drawn from columns,
// with as many elements as fit the window.
import { copy, lettersOn, toast, typing } from "./page.js";

const TURN = 0, CALL = 1, RECORD = 2, GROUP = 5;
const SVG = "http://www.w3.org/2000/svg";
const grid = document.getElementById("grid");
if (grid) start(grid);

/** @param {HTMLElement} grid */
async function start(grid) {
  const body = /** @type {HTMLElement} */ (document.getElementById("rows"));
  const far = grid.dataset.skeleton;
  /** @type {any} columns */
  let model;
  try {
    model = far ? await fetched(far) : fromRows(body, Number(grid.dataset.length));
  } catch {
    toast("the long view could not be loaded; rows are paged instead");
    return;
  }
  const n = model.at.length;
  const open = new Uint8Array(n);
  const dim = new Uint8Array(n);
  /** @type {number[]} rows that can be seen, in order */
  let list = [];
  let selected = -1;
  let query = "";
  const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) || 24;

  for (let i = 0; i < n; i++) open[i] = model.kind[i] === TURN || model.open?.[i] ? 1 : 0;
  const children = new Uint8Array(n);
  for (let i = 0; i < n; i++) if (model.parent[i] >= 0) children[model.parent[i]] = 1;
  // In a long session rows are of equal height, without room for a line with the date: the first
  // turn of a date bears it.
  const newDate = new Uint8Array(n);
  for (let i = 0, date = ""; i < n; i++) {
    if (model.kind[i] !== TURN || !model.date[i] || model.date[i] === date) continue;
    date = model.date[i];
    newDate[i] = 1;
  }
  const view = far ? virtual() : drawn();

  /** Which rows can be seen: all ancestors open; with a filter, matches and their ancestors. */
  function refresh() {
    list = [];
    if (query) {
      dim.fill(2);
      for (let i = 0; i < n; i++) {
        if (!model.text(i).toLowerCase().includes(query)) continue;
        dim[i] = 0;
        for (let p = model.parent[i]; p >= 0 && dim[p] === 2; p = model.parent[p]) dim[p] = 1;
      }
      for (let i = 0; i < n; i++) if (dim[i] < 2) list.push(i);
    } else {
      dim.fill(0);
      const shown = new Uint8Array(n);
      for (let i = 0; i < n; i++) {
        const p = model.parent[i];
        shown[i] = p < 0 || (shown[p] && open[p]) ? 1 : 0;
        if (shown[i]) list.push(i);
      }
    }
    view.layout();
    paint();
  }

  /** Position of row `i` in the list, or of the next one. @param {number} i */
  function place(i) {
    let low = 0, high = list.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (list[mid] < i) low = mid + 1;
      else high = mid;
    }
    return low;
  }

  let asked = false;
  function paint() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      const [a, b] = view.range();
      if (b <= a) return;
      // The axis spans what is in view. Turns only frame what they hold, so they stretch it only
      // when nothing else is there.
      let from = Infinity, to = 0;
      for (const turns of [false, true]) {
        for (let k = a; k < b; k++) {
          const i = list[k];
          if ((model.kind[i] === TURN) !== turns) continue;
          from = Math.min(from, model.at[i]);
          to = Math.max(to, model.at[i] + model.width[i]);
        }
        if (to > from) break;
      }
      if (!(to > from)) { from = 0; to = model.length; }
      const pad = (to - from) * 0.02;
      from = Math.max(0, from - pad);
      to = Math.min(model.length, to + pad);
      view.paint(a, b, from, to - from);
      brush(from, to);
      const label = document.getElementById("window");
      if (label) label.textContent = `axis: ${view.time(list[a])} + ${human(to - from)} · rows ${a + 1}–${b} of ${list.length}`;
    });
  }

  /** @param {Element} row @param {number} i @param {number} from @param {number} span */
  function bar(row, i, from, span) {
    const rect = row.querySelector(".bar rect");
    if (!rect) return;
    const x = ((model.at[i] - from) / span) * 100;
    const left = Math.max(-1, Math.min(101, x));
    const right = Math.max(-1, Math.min(101, x + (model.width[i] / span) * 100));
    rect.setAttribute("x", left.toFixed(3) + "%");
    // A rectangle without width is not drawn at all, not even its outline.
    rect.setAttribute("width", Math.max(0.05, right - left).toFixed(3) + "%");
  }

  /** @param {Element} row @param {number} i */
  function state(row, i) {
    row.setAttribute("aria-selected", String(i === selected));
    /** @type {HTMLElement} */ (row).tabIndex = i === selected || (selected < 0 && i === list[0]) ? 0 : -1;
    row.classList.toggle("dim", dim[i] === 1);
    if (!children[i]) return;
    row.setAttribute("aria-expanded", String(open[i] === 1 || query !== ""));
    const twist = row.querySelector(".tw");
    if (twist) {
      twist.textContent = open[i] ? "▾" : "▸";
      twist.setAttribute("aria-label", open[i] ? "close" : "open");
    }
  }

  /** Rows that the server drew. */
  function drawn() {
    /** @type {HTMLElement[]} */
    const rows = model.rows;
    addEventListener("scroll", paint, { passive: true });
    addEventListener("resize", paint);
    return {
      layout() {
        for (const line of body.querySelectorAll(".date")) line.remove();
        let k = 0, date = "";
        for (let i = 0; i < n; i++) {
          const seen = list[k] === i;
          if (seen) k++;
          rows[i].hidden = !seen;
          state(rows[i], i);
          if (!seen || !model.date[i] || model.date[i] === date) continue;
          date = model.date[i];
          const line = el("div", "date");
          line.setAttribute("role", "presentation");
          line.textContent = date;
          rows[i].before(line);
        }
      },
      range() {
        const first = edge((row) => row.bottom > 0), last = edge((row) => row.top > innerHeight);
        return [Math.min(first, list.length - 1), Math.max(last, first + 1)].map((k) => Math.min(k, list.length));
      },
      /** @param {number} a @param {number} b @param {number} from @param {number} span */
      paint(a, b, from, span) {
        for (let k = a; k < b; k++) bar(rows[list[k]], list[k], from, span);
      },
      /** @param {number} i */
      time: (i) => rows[i]?.querySelector(".tm")?.textContent ?? "",
      /** @param {number} i @param {boolean} focus */
      reveal(i, focus) {
        rows[i].scrollIntoView({ block: "nearest" });
        if (focus) rows[i].focus({ preventScroll: true });
      },
    };
    /** First row for which `past` holds. @param {(row: DOMRect) => boolean} past */
    function edge(past) {
      let low = 0, high = list.length;
      while (low < high) {
        const mid = (low + high) >> 1;
        if (past(rows[list[mid]].getBoundingClientRect())) high = mid;
        else low = mid + 1;
      }
      return low;
    }
  }

  /** A window of recycled rows over the columns. */
  function virtual() {
    grid.classList.add("far");
    body.replaceChildren();
    for (const id of ["pager"]) document.getElementById(id)?.remove();
    const head = /** @type {HTMLElement} */ (grid.querySelector(".ghead"));
    /** @type {HTMLElement[]} */
    const pool = [];
    let height = rowHeight();
    // Browsers cap the height of an element; beyond it, scrolling is scaled.
    const CAP = 15_000_000;
    let scale = 1;
    grid.addEventListener("scroll", paint, { passive: true });
    addEventListener("resize", () => { height = rowHeight(); view.layout(); paint(); });
    const room = () => grid.clientHeight - head.offsetHeight;
    const top = () => grid.scrollTop * scale;
    return {
      layout() {
        const full = list.length * height;
        const given = Math.min(full, CAP);
        scale = given > room() ? (full - room()) / (given - room()) : 1;
        body.style.height = given + "px";
      },
      range() {
        const a = Math.max(0, Math.floor(top() / height) - 4);
        return [a, Math.min(list.length, Math.ceil((top() + room()) / height) + 4)];
      },
      /** @param {number} a @param {number} b @param {number} from @param {number} span */
      paint(a, b, from, span) {
        for (let k = a; k < b; k++) {
          const row = pool[k - a] ?? (pool[k - a] = body.appendChild(blank()));
          fill(row, list[k]);
          row.style.top = k * height - top() + grid.scrollTop + "px";
          row.hidden = false;
          bar(row, list[k], from, span);
        }
        for (let k = b - a; k < pool.length; k++) pool[k].hidden = true;
      },
      /** @param {number} i */
      time: (i) => model.time[i],
      /** @param {number} i @param {boolean} focus */
      reveal(i, focus) {
        const y = place(i) * height;
        if (y < top()) grid.scrollTop = Math.max(0, y / scale);
        else if (y + height > top() + room()) grid.scrollTop = (y + height - room()) / scale;
        if (!focus) return;
        requestAnimationFrame(() => requestAnimationFrame(() => {
          pool.find((row) => !row.hidden && Number(row.dataset.i) === i)?.focus({ preventScroll: true });
        }));
      },
    };
  }

  /** The same elements as templates/session.html draws. */
  function blank() {
    const row = el("div", "r");
    row.setAttribute("role", "row");
    for (const name of ["tm m", "seen", "ev", "oc", "gr", "du n m", "tl"]) {
      const cell = el("span", name);
      cell.setAttribute("role", "gridcell");
      row.append(cell);
    }
    for (let k = 1; k < 6; k++) row.children[1].append(el("i", ""));
    row.children[1].append(el("span", "vh"));
    const says = el("bdi", "u");
    says.setAttribute("dir", "ltr");
    row.children[2].append(el("a", "tw"), el("a", "what"), el("span", "flag o-warn"), says);
    row.children[2].children[0].setAttribute("tabindex", "-1");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("aria-hidden", "true");
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("y", "8");
    rect.setAttribute("height", "8");
    svg.append(rect);
    row.children[6].append(svg);
    return row;
  }

  /** @param {HTMLElement} row @param {number} i */
  function fill(row, i) {
    const m = model, cells = row.children;
    row.dataset.i = String(i);
    row.className = "r " + ["turn", "call", "record", "body", "gap", "group"][m.kind[i]];
    row.setAttribute("aria-rowindex", String(i + 2));
    row.setAttribute("aria-level", m.level[i]);
    if (!children[i]) row.removeAttribute("aria-expanded");
    cells[0].textContent = newDate[i] ? m.date[i].slice(5) + " " + m.time[i].slice(0, 8) : m.time[i];
    const seen = [];
    for (let k = 1; k < 6; k++) {
      const on = m.seen[i] & (1 << k), letter = cells[1].children[k - 1];
      letter.textContent = on ? m.lanes[k][0] : m.seen[i] ? "·" : "";
      letter.className = on ? m.lanes[k][2] : "no";
      if (on) seen.push(m.lanes[k][1]);
    }
    cells[1].children[5].textContent = seen.join(", ");
    const [twist, what, flag, says] = cells[2].children;
    twist.textContent = "";
    if (children[i]) twist.setAttribute("href", "#" + encodeURIComponent(m.anchor[i]));
    else twist.removeAttribute("href");
    what.textContent = m.what[i];
    what.setAttribute("href", m.href[i]);
    flag.textContent = m.flag[i] && "∅ " + m.flag[i];
    says.textContent = m.says[i];
    /** @type {HTMLElement} */ (says).hidden = !m.says[i];
    mark(cells[3], "oc ", m.outcomes[m.outcome[i]]);
    mark(cells[4], "gr ", m.grade[i] < 0 ? ["", "", ""] : m.grades[m.grade[i]]);
    cells[5].textContent = m.duration[i];
    cells[6].firstElementChild?.setAttribute("class", "bar " + m.lanes[m.lane[i]][2]);
    state(row, i);
  }

  /** @param {Element} cell @param {string} name @param {string[]} mark */
  function mark(cell, name, [glyph, word, style]) {
    cell.className = name + style;
    cell.textContent = word && glyph + " " + word;
  }

  // The brush shows where the axis is; dragging or arrow keys move the view.
  const map = document.querySelector("#map svg");
  const box = document.getElementById("brush");
  /** @param {number} from @param {number} to */
  function brush(from, to) {
    if (!map || !box) return;
    const all = to - from > model.length * 0.98;
    box.setAttribute("visibility", all ? "hidden" : "visible");
    box.setAttribute("x", String((from / model.length) * 1000));
    box.setAttribute("width", String(Math.max(2, ((to - from) / model.length) * 1000)));
  }
  if (map) {
    /** @param {PointerEvent} event */
    const go = (event) => {
      const frame = map.getBoundingClientRect();
      const at = ((event.clientX - frame.left) / frame.width) * model.length;
      let best = list[0], distance = Infinity;
      for (const i of list) {
        if (model.kind[i] === TURN) continue;
        const away = Math.abs(model.at[i] - at);
        if (away < distance) { best = i; distance = away; }
      }
      if (best !== undefined) select(best, false);
    };
    map.addEventListener("pointerdown", (event) => {
      map.setPointerCapture(/** @type {PointerEvent} */ (event).pointerId);
      go(/** @type {PointerEvent} */ (event));
    });
    map.addEventListener("pointermove", (event) => {
      if (/** @type {PointerEvent} */ (event).buttons) go(/** @type {PointerEvent} */ (event));
    });
  }

  /** @param {number} i @param {boolean} [focus] */
  function select(i, focus = true) {
    if (i === undefined || i < 0) return;
    let closed = false;
    for (let p = model.parent[i]; p >= 0; p = model.parent[p]) if (!open[p]) { open[p] = 1; closed = true; }
    const before = selected;
    selected = i;
    if (closed || (query && dim[i] === 2)) { if (query) clear(); refresh(); }
    else if (!far) for (const k of [before, i, list[0]]) if (k >= 0) state(model.rows[k], k);
    view.reveal(i, focus);
    paint();
  }

  /** @param {number} i */
  function toggle(i) {
    if (!children[i]) return;
    open[i] = open[i] ? 0 : 1;
    refresh();
  }

  const rowOf = (/** @type {EventTarget | null} */ target) => {
    const row = target instanceof Element ? target.closest("[data-i]") : null;
    return row instanceof HTMLElement ? Number(row.dataset.i) : -1;
  };

  grid.addEventListener("click", (event) => {
    const i = rowOf(event.target);
    if (i < 0) return;
    const target = /** @type {Element} */ (event.target);
    if (target.closest(".tw") || (model.kind[i] === GROUP && target.closest(".what"))) {
      event.preventDefault();
      toggle(i);
      select(i);
    } else if (!target.closest("a") && !String(getSelection())) select(i);
  });

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || typing(event)) return;
    const letters = lettersOn();
    const inGrid = grid.contains(document.activeElement) || document.activeElement === document.body;
    if (event.key === "f" && letters) {
      event.preventDefault();
      filter?.querySelector("input")?.focus();
      return;
    }
    if (!inGrid) return;
    const onLink = event.target instanceof Element && event.target.closest("a, button, summary");
    const key = { j: "ArrowDown", k: "ArrowUp", l: "ArrowRight", h: "ArrowLeft" }[letters ? event.key : ""] ?? event.key;
    const i = selected, at = place(i);
    // Without a selected row, arrows scroll the page as everywhere else.
    if (i < 0 && key === event.key) return;
    let done = true;
    if (key === "ArrowDown") select(i < 0 ? list[0] : list[Math.min(at + 1, list.length - 1)]);
    else if (key === "ArrowUp") select(i < 0 ? list[0] : list[Math.max(at - 1, 0)]);
    else if (i < 0) done = false;
    else if (key === "Home") select(list[0]);
    else if (key === "End") select(list[list.length - 1]);
    else if (key === "ArrowRight") children[i] && !open[i] ? (toggle(i), select(i)) : select(list[Math.min(at + 1, list.length - 1)]);
    else if (key === "ArrowLeft") children[i] && open[i] && model.kind[i] !== TURN ? (toggle(i), select(i)) : select(model.parent[i]);
    else if (key === "Enter" && !onLink) model.kind[i] === RECORD || !children[i] ? (location.href = model.href[i]) : (toggle(i), select(i));
    else if (!letters) done = false;
    else if (key === "u") cause(i);
    else if (key === "d") effect(i);
    else if (key === "r" && model.kind[i] === RECORD) location.href = model.href[i] + "?tab=raw";
    else if (key === "y") permalink(i);
    else done = false;
    if (done) event.preventDefault();
  });

  /** @param {number} i */
  function cause(i) {
    const up = model.cause[i] >= 0 ? model.cause[i] : model.parent[i];
    if (up >= 0) select(up);
    else toast("nothing here says what caused this row");
  }

  /** @param {number} i */
  function effect(i) {
    for (let k = i + 1; k < n; k++) if (model.cause[k] === i) return select(k);
    if (children[i]) return select(i + 1);
    toast("nothing here names this row as its cause");
  }

  /** @param {number} i */
  function permalink(i) {
    const url = new URL(location.href);
    const anchor = model.anchor[i];
    url.search = anchor.startsWith("e-") ? "?at=" + encodeURIComponent(anchor.slice(2)) : "";
    url.hash = anchor;
    copy(url.href, "link");
  }

  const filter = document.getElementById("rowfilter");
  const field = filter?.querySelector("input");
  function clear() {
    query = "";
    if (field) field.value = "";
  }
  if (filter && field) {
    filter.hidden = false;
    field.addEventListener("input", () => {
      query = field.value.trim().toLowerCase();
      refresh();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { clear(); refresh(); }
      else if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); select(list.find((i) => dim[i] === 0) ?? -1); }
    });
  }
  for (const [id, value] of /** @type {[string, number][]} */ ([["openall", 1], ["closeall", 0]])) {
    document.getElementById(id)?.addEventListener("click", (event) => {
      event.preventDefault();
      for (let i = 0; i < n; i++) if (model.kind[i] === CALL || model.kind[i] === GROUP) open[i] = value;
      refresh();
    });
  }

  refresh();
  let hash = "";
  try { hash = decodeURIComponent(location.hash.slice(1)); } catch { /* not ours */ }
  const wanted = model.anchor.indexOf(hash || grid.dataset.at || "\0");
  if (wanted >= 0 && model.anchor[wanted]) select(wanted, false);
  document.documentElement.dataset.timeline = "ready";
}

/** @param {string} address */
async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(String(answer.status));
  const model = await answer.json();
  for (const name of ["at", "width"]) model[name] = Float64Array.from(model[name]);
  for (const name of ["parent", "cause"]) model[name] = Int32Array.from(model[name]);
  for (const name of ["kind", "level", "lane", "seen", "outcome"]) model[name] = Uint8Array.from(model[name]);
  // Each text is sent once; addresses that follow from an anchor or a parent are not sent at all.
  for (const name of ["date", "duration", "what", "flag", "says"]) model[name] = model[name].map((/** @type {number} */ k) => model.texts[k]);
  for (let i = 0; i < model.href.length; i++)
    model.href[i] ||= model.anchor[i] ? "/events/" + encodeURIComponent(model.anchor[i].slice(2)) : model.href[model.parent[i]];
  model.text = (/** @type {number} */ i) => model.what[i] + " " + model.says[i] + " " + model.outcomes[model.outcome[i]][1] + " " + model.flag[i];
  return model;
}

/** The columns that the server wrote into its rows. @param {HTMLElement} body @param {number} length */
function fromRows(body, length) {
  const rows = /** @type {HTMLElement[]} */ ([...body.querySelectorAll("[data-i]")]);
  const column = (/** @type {string} */ name) => rows.map((row) => Number(row.dataset[name]));
  return {
    rows,
    length,
    kind: column("k"),
    parent: column("p"),
    cause: column("c"),
    date: rows.map((row) => row.dataset.d ?? ""),
    at: column("x"),
    width: column("w"),
    open: rows.map((row) => row.getAttribute("aria-expanded") === "true"),
    anchor: rows.map((row) => row.id),
    href: rows.map((row) => row.querySelector("a.what")?.getAttribute("href") ?? ""),
    text: (/** @type {number} */ i) => rows[i].textContent ?? "",
  };
}

/** @param {string} name @param {string} style */
function el(name, style) {
  const element = document.createElement(name);
  element.className = style;
  return element;
}

/** @param {number} us */
function human(us) {
  if (us < 1000) return Math.round(us) + " µs";
  if (us < 1e6) return Math.round(us / 1000) + " ms";
  if (us < 6e7) return (us / 1e6).toFixed(1) + " s";
  return Math.floor(us / 6e7) + " m " + Math.round((us % 6e7) / 1e6) + " s";
}
