/** Building elements, icons and toasts. Text is always text: nothing here parses markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns a new element. `on…` props are listeners, `class`, `aria-…`, `data-…` and the like attributes, others properties.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value == null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Returns the icon of that name, out of index.html. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Gives a button another icon and what it is called. @param {Element} button @param {string} name @param {string} label @param {string} title */
export function setIcon(button, name, label, title) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
  button.setAttribute("aria-label", label);
  button.title = title;
}

/** Returns a round button that shows an icon and is called `label`. @param {string} name @param {string} label */
export function iconButton(name, label, onclick, kind = "small") {
  return el("button", { type: "button", className: `icon-button ${kind}`, "aria-label": label, title: label, onclick }, icon(name));
}

/** @param {string} id @returns {any} */
export function byId(id) {
  return document.getElementById(id);
}

/** Says something in passing, with one thing to do about it. @param {string} text @param {{label: string, act: () => void}} [action] */
export function toast(text, action) {
  const note = el("div", { className: "toast" }, el("span", {}, text));
  const gone = setTimeout(() => note.remove(), action ? 8000 : 5000);
  if (action) {
    const act = () => {
      clearTimeout(gone);
      note.remove();
      action.act();
    };
    note.append(el("button", { className: "link", onclick: act }, action.label));
  }
  byId("toasts").append(note);
}

/** Returns how long a clip is, as it is read: 0.8 s, 2:05. @param {number} seconds */
export function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
