/** Where a question is put together: text and clips in the order they are read and heard. */

import { ClipView } from "./clip-view.js";
import { byId, clock, el, iconButton, setIcon } from "./dom.js";
import { drawLevels } from "./picture.js";

/** @typedef {import("./types.js").Part} Part */

const HINTS = {
  opening: "Opening the microphone",
  held: "Let go to send, slide off to discard",
  recording: "Press again to keep it",
  listening: "Listening: just speak",
  hearing: "Sent when you pause",
};

export class Composer {
  /**
   * @param {import("./player.js").Player} player
   * @param {object} told
   * @param {(parts: Part[], since: number) => void} told.onSend
   * @param {() => void} told.onStop
   * @param {(files: File[]) => void} told.onFiles
   */
  constructor(player, told) {
    this.player = player;
    this.told = told;
    /** @type {Part[]} */
    this.parts = [];
    this.answering = false;
    this.form = byId("composer");
    this.list = byId("parts");
    this.input = byId("text");
    this.live = byId("live");
    this.send = byId("send");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.answering) told.onStop();
      else this.submit();
    });
    this.input.addEventListener("input", () => this.#fit());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    byId("attach").onclick = () => byId("file").click();
    byId("file").addEventListener("change", ({ target }) => {
      told.onFiles([...target.files]);
      target.value = "";
    });
    this.#fit();
  }

  /** Adds a clip behind what is there. @param {import("./types.js").Sound} sound @param {string} [name] */
  addClip(sound, name) {
    this.#keepText();
    this.parts.push({ type: "audio", ...sound, name });
    this.#list();
    this.input.focus({ preventScroll: true });
  }

  /** Sends what there is, if there is anything. @param {number} [since]  performance.now() at the end of the question */
  submit(since = performance.now()) {
    if (this.answering) return;
    this.#keepText();
    if (!this.parts.length) return;
    const parts = this.parts;
    this.parts = [];
    this.#list();
    this.told.onSend(parts, since);
  }

  clear() {
    this.parts = [];
    this.input.value = "";
    this.#list();
  }

  /** Shows that an answer comes, and that sending stops it. @param {boolean} answering */
  setAnswering(answering) {
    this.answering = answering;
    if (answering) setIcon(this.send, "stop", "Stop the answer", "Stop (Esc)");
    else setIcon(this.send, "send", "Send", "Send (Enter)");
    this.#fit();
  }

  /** Shows what the microphone does. @param {import("./talking.js").Talking} talking */
  showTalking(talking) {
    const { state } = talking;
    cancelAnimationFrame(this.frame);
    this.form.dataset.state = state;
    this.live.hidden = state === "idle";
    this.input.hidden = state !== "idle";
    byId("hint").textContent = HINTS[state] ?? "";
    byId("clock").textContent = "";
    byId("hands-free").setAttribute("aria-pressed", talking.handsFree);
    byId("talk").setAttribute("aria-pressed", talking.isRecording);
    if (state === "idle") return void this.#fit();
    const draw = () => {
      drawLevels(byId("levels"), talking.levels);
      if (talking.isRecording) byId("clock").textContent = clock(talking.seconds);
      this.frame = requestAnimationFrame(draw);
    };
    draw();
  }

  /** Makes what is typed a part of its own. */
  #keepText() {
    const text = this.input.value.trim();
    this.input.value = "";
    if (text) this.parts.push({ type: "text", text });
  }

  #list() {
    this.list.replaceChildren(...this.parts.map((part, index) => this.#item(part, index)));
    this.list.hidden = !this.parts.length;
    this.#fit();
  }

  /** @param {Part} part @param {number} index */
  #item(part, index) {
    const onRemove = () => {
      this.parts.splice(index, 1);
      this.#list();
      this.input.focus();
    };
    if (part.type === "audio") {
      const view = new ClipView(part, this.player, { label: part.name ?? `clip ${index + 1}`, onRemove });
      return el("li", {}, view.element);
    }
    const edit = () => {
      onRemove();
      this.input.value = [part.text, this.input.value].filter(Boolean).join(" ");
      this.#fit();
    };
    const text = el("button", { type: "button", className: "written", title: "Edit", onclick: edit }, part.text);
    return el("li", { className: "chip" }, text, iconButton("close", "Remove this text", onRemove));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Backspace" && !this.input.value && this.parts.length) {
      event.preventDefault();
      const last = this.parts.pop();
      if (last.type === "text") this.input.value = last.text;
      this.#list();
    }
  }

  #fit() {
    if (!this.input.hidden) {
      this.input.style.height = "auto";
      this.input.style.height = `${Math.min(200, this.input.scrollHeight)}px`;
    }
    this.send.disabled = !this.answering && !this.input.value.trim() && !this.parts.length;
  }
}
