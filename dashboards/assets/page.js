// @ts-check
// Every page: theme, letter keys, copy buttons. Nothing here is needed to read a page.

const root = document.documentElement;
root.classList.add("js");

/** @param {string} name @param {string | null} [value] */
export function setting(name, value) {
  try {
    if (value === undefined) return localStorage.getItem("threadline." + name);
    if (value === null) localStorage.removeItem("threadline." + name);
    else localStorage.setItem("threadline." + name, value);
  } catch {
    // Storage is off: the setting lasts as long as the page.
  }
  return value ?? null;
}

/** @param {string} text */
export function toast(text) {
  const box = document.getElementById("toast");
  if (!box) return;
  box.textContent = text;
  setTimeout(() => (box.textContent = ""), 2500);
}

/** @param {string} text @param {string} what */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(what + " copied");
  } catch {
    toast("this browser does not allow copying");
  }
}

// Theme: what the system prefers until a person chooses. The cookie lets the server draw the page in
// the chosen theme at once.
const theme = /** @type {HTMLButtonElement | null} */ (document.getElementById("theme"));
if (theme) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => (theme.textContent = dark() ? "Light theme" : "Dark theme");
  theme.hidden = false;
  label();
  system.addEventListener("change", label);
  theme.addEventListener("click", () => {
    const chosen = dark() ? "light" : "dark";
    root.dataset.theme = chosen;
    document.cookie = `threadline_theme=${chosen}; Path=/; Max-Age=31536000; SameSite=Strict`;
    label();
  });
}

for (const element of document.querySelectorAll("[data-copy]")) {
  const text = element.textContent ?? "";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  button.setAttribute("aria-label", element.tagName === "PRE" ? "copy command" : "copy " + text);
  button.addEventListener("click", () => copy(text.trim(), element.tagName === "PRE" ? "command" : "id"));
  element.after(button);
}

// Letter keys can be switched off (they get in the way of dictation).
export const lettersOn = () => setting("letters") !== "off";
const letters = document.getElementById("letters");
if (letters) {
  const box = /** @type {HTMLInputElement} */ (letters.querySelector("input"));
  letters.hidden = false;
  box.checked = lettersOn();
  box.addEventListener("change", () => setting("letters", box.checked ? null : "off"));
}

/** Whether a key press is meant for a field or for the browser. @param {KeyboardEvent} event */
export function typing(event) {
  const target = event.target;
  return (
    event.ctrlKey || event.metaKey || event.altKey || event.isComposing ||
    (target instanceof Element && target.closest("input, select, textarea") !== null)
  );
}

let pendingGo = 0;
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || typing(event) || !lettersOn()) return;
  if (pendingGo && event.timeStamp - pendingGo < 1500) {
    pendingGo = 0;
    const place = { s: "/sessions", x: "/search" }[event.key];
    if (place) {
      event.preventDefault();
      location.href = place;
    }
    return;
  }
  if (event.key === "g") pendingGo = event.timeStamp;
  else if (event.key === "?") location.href = "/help";
  else if (event.key === "/") {
    event.preventDefault();
    const box = /** @type {HTMLInputElement | null} */ (document.getElementById("q"));
    box?.focus();
    box?.select();
  }
});
