/** The settings, and the key where the server wants one. */

import { byId } from "./dom.js";

/** @typedef {import("./types.js").Settings} Settings */

export class SettingsView {
  /** @param {Settings} settings @param {() => void} onChange */
  constructor(settings, onChange) {
    this.settings = settings;
    this.onChange = onChange;
    this.dialog = byId("settings");
    byId("open-settings").onclick = () => this.open();
    byId("theme").onclick = () => this.#nextTheme();
    byId("speak").onclick = () => this.#set({ speak: !this.settings.speak });
    this.dialog.addEventListener("close", () => this.#read());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.#show();
  }

  /** Opens the dialog; with a reason, it asks for the key. @param {string} [why] */
  open(why = "") {
    const { form } = this;
    byId("why").textContent = why;
    byId("why").hidden = !why;
    for (const name of ["key", "instructions", "maxTokens", "temperature"]) form[name].value = this.settings[name] ?? "";
    form.transcripts.checked = this.settings.transcripts;
    if (!this.dialog.open) this.dialog.showModal();
    form[why ? "key" : "instructions"].focus();
  }

  /** @returns {any} */
  get form() {
    return this.dialog.querySelector("form").elements;
  }

  #read() {
    const { form } = this;
    const number = (name, unset) => {
      if (!form[name].validity.valid) return this.settings[name];
      return form[name].value ? Number(form[name].value) : unset;
    };
    this.#set({
      key: form.key.value.trim(),
      instructions: form.instructions.value.trim(),
      maxTokens: number("maxTokens", null),
      temperature: number("temperature", 0),
      transcripts: form.transcripts.checked,
    });
  }

  #nextTheme() {
    const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    // One click always changes what is seen; back at what the system wants, the system is followed again.
    const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    this.#set({ theme: (other === "dark") === isDark ? "system" : other });
  }

  /** @param {Partial<Settings>} changed */
  #set(changed) {
    Object.assign(this.settings, changed);
    this.#show();
    this.onChange();
  }

  #show() {
    document.dispatchEvent(new CustomEvent("theme", { detail: this.settings.theme }));
    byId("speak").setAttribute("aria-pressed", this.settings.speak);
  }
}
