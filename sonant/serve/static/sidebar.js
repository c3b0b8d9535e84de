/** The conversations that this browser keeps: choose, rename, delete, save, open. */

import { byId, el, iconButton } from "./dom.js";

/** @typedef {import("./store.js").Title} Title */

export class Sidebar {
  /**
   * @param {object} told
   * @param {(id: string) => void} told.onOpen
   * @param {() => void} told.onNew
   * @param {(id: string, title: string) => void} told.onRename
   * @param {(id: string) => void} told.onDelete
   * @param {(id: string | null) => void} told.onExport  null: all
   * @param {(file: File) => void} told.onImport
   */
  constructor(told) {
    this.told = told;
    this.renaming = false;
    this.list = byId("conversations");
    byId("new").onclick = () => this.#and(told.onNew);
    byId("menu").onclick = () => this.toggle();
    byId("veil").onclick = () => this.toggle(false);
    byId("export-all").onclick = () => told.onExport(null);
    byId("import").onclick = () => byId("manifest").click();
    byId("manifest").addEventListener("change", ({ target }) => {
      for (const file of target.files) told.onImport(file);
      target.value = "";
    });
  }

  /** Shows or hides it: beside the page where there is room, above it on a phone. @param {boolean} [wanted] */
  toggle(wanted) {
    const open = wanted ?? document.body.dataset.sidebar !== "open";
    document.body.dataset.sidebar = open ? "open" : "closed";
    byId("menu").setAttribute("aria-expanded", open);
  }

  /** Lists conversations. @param {Title[]} conversations @param {string} current */
  show(conversations, current) {
    if (this.renaming) return; // an answer that ends must not take the name away that is being typed; its end lists anew
    this.list.replaceChildren(...conversations.map((conversation) => this.#item(conversation, conversation.id === current)));
    byId("none-yet").hidden = conversations.length > 0;
    byId("export-all").disabled = !conversations.length;
  }

  /** @param {Title} conversation @param {boolean} isCurrent */
  #item({ id, title }, isCurrent) {
    const onclick = () => this.#and(() => this.told.onOpen(id));
    const rename = () => this.#rename(item, id, title);
    const item = el(
      "li",
      {},
      el("button", { className: "name", "aria-current": isCurrent || null, onclick, ondblclick: rename }, title),
      iconButton("rename", `Rename ${title}`, rename),
      iconButton("save", `Save ${title} as a manifest line`, () => this.told.onExport(id)),
      iconButton("delete", `Delete ${title}`, () => this.told.onDelete(id)),
    );
    return item;
  }

  /** @param {HTMLElement} item @param {string} id @param {string} title */
  #rename(item, id, title) {
    const input = el("input", { value: title, className: "name", "aria-label": "Name of the conversation", maxLength: 120 });
    this.renaming = true;
    const end = (kept) => {
      if (!this.renaming) return;
      this.renaming = false;
      this.told.onRename(id, (kept && input.value.trim()) || title);
    };
    input.addEventListener("blur", () => end(true));
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") end(event.key === "Enter");
    });
    item.replaceChildren(input);
    input.select();
  }

  /** Does it, and on a phone makes room for what it does. @param {() => void} act */
  #and(act) {
    act();
    if (matchMedia("(max-width: 800px)").matches) this.toggle(false);
  }
}

/** Gives the reader a file. @param {string} name @param {string[]} lines */
export function download(name, lines) {
  const address = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
