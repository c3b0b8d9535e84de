/** A clip on the page: play, waveform to seek in, spectrogram, what was heard in it. */

import { clock, el, iconButton, setIcon } from "./dom.js";
import { drawSpectrogram, drawWave, peaksOf } from "./picture.js";
import { duration } from "./wav.js";

const STEP_S = 0.5; // of the arrow keys
const END_S = 0.15; // who stops so near to the end has heard it all

/** @typedef {import("./types.js").AudioPart} AudioPart */

export class ClipView {
  /**
   * @param {AudioPart} part  samples may be added to it until `finish`
   * @param {import("./player.js").Player} player
   * @param {{label: string, onRemove?: () => void, onTranscript?: (text: string) => void}} options
   */
  constructor(part, player, { label, onRemove, onTranscript }) {
    this.part = part;
    this.player = player;
    this.onTranscript = onTranscript;
    this.progress = 0;
    this.playing = false;
    this.label = label;
    this.button = iconButton("play", `Play ${label}`, () => this.toggle(), "play");
    this.wave = el("canvas", { className: "wave", "aria-hidden": "true" });
    this.track = el(
      "div",
      { className: "track", role: "slider", tabIndex: 0, "aria-label": `Place in ${label}`, "aria-valuemin": 0, onkeydown: (e) => this.#key(e), onpointerdown: (e) => this.#seek(e) },
      this.wave,
    );
    this.clock = el("span", { className: "clock" });
    this.spectrogram = el("canvas", { className: "spectrogram", role: "img", "aria-label": `Spectrogram of ${label}` });
    this.picture = el("div", { className: "picture" }, this.spectrogram, el("span", { className: "hz", "aria-hidden": "true" }, "8k"));
    this.heard = el("p", { className: "heard" });
    const row = el("div", { className: "row" }, this.button, this.track, this.clock);
    if (onRemove) row.append(iconButton("close", `Remove ${label}`, onRemove));
    this.element = el("figure", { className: "clip", "aria-label": label }, row, this.picture, this.heard);
    this.refresh();
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /** Shows the samples as they are now. */
  refresh() {
    this.peaks = peaksOf(this.part);
    this.#tell();
    this.draw();
    this.showHeard();
  }

  /** Draws at the size and in the colours of now. */
  draw() {
    if (!this.element.isConnected) return;
    drawWave(this.wave, this.peaks, this.progress);
    if (this.picture.offsetParent) drawSpectrogram(this.spectrogram, this.part);
  }

  /** Shows the transcript, which a click corrects. */
  showHeard() {
    const { transcript, heard } = this.part;
    const text = transcript ?? heard ?? "";
    this.heard.textContent = text;
    this.heard.hidden = !text;
    this.heard.classList.toggle("by-model", transcript === undefined);
    if (!this.onTranscript || !text) return;
    this.heard.title = transcript === undefined ? "What the model heard. Click to correct it." : "Corrected by you.";
    this.heard.setAttribute("contenteditable", "plaintext-only"); // where that is unknown, it is merely shown
    this.heard.setAttribute("role", "textbox");
    this.heard.setAttribute("aria-label", `Transcript of ${this.label}`);
    this.heard.onblur = () => this.#correct(text);
    this.heard.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        if (event.key === "Escape") this.heard.textContent = text;
        this.heard.blur();
      }
    };
  }

  /** Moves the mark of what has been played. @param {number} seconds */
  at(seconds) {
    this.progress = seconds / Math.max(0.01, duration(this.part));
    drawWave(this.wave, this.peaks, this.progress);
    this.#tell(seconds);
  }

  /** Shows that it plays, or does not. @param {boolean} playing */
  shows(playing) {
    this.playing = playing;
    const title = playing ? "Pause" : "Play";
    setIcon(this.button, playing ? "pause" : "play", `${title} ${this.label}`, title);
    if (!playing && (1 - this.progress) * duration(this.part) < END_S) this.at(0);
  }

  toggle() {
    if (this.playing) this.player.stop();
    else this.play(this.progress * duration(this.part));
  }

  /** What a player needs to know while it plays this. */
  get told() {
    return { onProgress: (seconds) => this.at(seconds), onEnd: () => this.shows(false) };
  }

  /** @param {number} from  seconds */
  play(from) {
    this.player.play(this.part, { from, ...this.told });
    this.shows(true);
  }

  /** @param {string} before */
  #correct(before) {
    const text = this.heard.textContent.trim();
    if (text === before) return;
    this.part.transcript = text || undefined;
    this.onTranscript(text);
    this.showHeard();
  }

  #tell(seconds = 0) {
    const whole = duration(this.part);
    this.clock.textContent = clock(seconds || whole);
    this.track.setAttribute("aria-valuemax", whole.toFixed(1));
    this.track.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.track.setAttribute("aria-valuetext", `${seconds.toFixed(1)} of ${whole.toFixed(1)} seconds`);
  }

  /** @param {PointerEvent} event */
  #seek(event) {
    const { left, width } = this.track.getBoundingClientRect();
    this.play(Math.max(0, ((event.clientX - left) / width) * duration(this.part)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowRight: STEP_S, ArrowLeft: -STEP_S, Home: -Infinity, End: Infinity }[event.key];
    if (!step) return;
    event.preventDefault();
    const whole = duration(this.part);
    const place = Math.max(0, Math.min(whole, this.progress * whole + step));
    if (this.playing) this.play(place);
    else this.at(place);
  }
}
