/**
 * How a reader talks: holds (and lets go to send), taps (and taps again to keep the clip), or hands-free.
 *
 *   idle --press--> held --let go--> send          held less than TAP_MS: recording, until the next press
 *   idle --hands-free--> listening --speech--> hearing --quiet--> send, listening
 */

import { loudness, VoiceActivity, END_S } from "./voice-activity.js";

const TAP_MS = 300;
const LONGEST_S = 299; // and what was before: a server takes 300 s
const BEFORE_PRESS_S = 0.15; // fingers are later than tongues
const BEFORE_SPEECH_S = 0.4; // soft beginnings
const AFTER_SPEECH_S = 0.2;
const SILENT = 60; // of 32768: a muted microphone

/** @typedef {"idle" | "opening" | "held" | "recording" | "listening" | "hearing"} TalkState */

export class Talking {
  /**
   * @param {import("./microphone.js").Microphone} microphone
   * @param {object} told
   * @param {(state: TalkState) => void} told.onState
   * @param {() => void} told.onBegin                somebody speaks: an answer that plays should be silent
   * @param {(sound: import("./types.js").Sound, send: boolean, since: number) => void} told.onClip
   * @param {(text: string) => void} told.onProblem
   */
  constructor(microphone, told) {
    this.microphone = microphone;
    this.told = told;
    /** @type {TalkState} */
    this.state = "idle";
    this.began = this.pressed = this.released = 0; // performance.now() of the clip, the press, its end
    this.handsFree = false;
    this.activity = new VoiceActivity();
    /** @type {number[]} */
    this.levels = [];
    microphone.onBlock = (block, rate) => this.#hear(block, rate);
  }

  /** Seconds of the clip so far. */
  get seconds() {
    return this.isRecording ? (performance.now() - this.began) / 1000 : 0;
  }

  get isRecording() {
    return this.state === "held" || this.state === "recording" || this.state === "hearing";
  }

  /** The button or the space bar goes down. */
  async press() {
    if (this.state === "recording") {
      this.#finish(false);
    } else if (this.state === "idle") {
      this.pressed = performance.now();
      this.released = 0;
      this.#set("opening");
      if (!(await this.#open())) return;
      const heldMs = this.released - this.pressed;
      const state = /** @type {TalkState} */ (this.state); // as it is by now
      if (state !== "opening" || heldMs >= TAP_MS) {
        this.cancel(); // The finger was needed to allow the microphone.
        return void this.told.onProblem("The microphone is ready. Hold and speak.");
      }
      this.told.onBegin();
      this.#begin(BEFORE_PRESS_S, this.released ? "recording" : "held");
    }
  }

  /** Pressed and let go at once, by a key or an aid. */
  tap() {
    this.press();
    this.release();
  }

  /** ... and up again. */
  release() {
    if (this.state === "opening") this.released = performance.now();
    if (this.state !== "held") return;
    if (performance.now() - this.pressed < TAP_MS) this.#set("recording");
    else this.#finish(true);
  }

  /** Throws the clip away, or leaves hands-free. */
  cancel() {
    if (this.handsFree) return void this.setHandsFree(false);
    if (this.state === "idle") return;
    this.microphone.discard();
    this.microphone.closeSoon();
    this.#set("idle");
  }

  /** Listens all the time, or no more. @param {boolean} wanted */
  async setHandsFree(wanted) {
    if (this.isRecording) this.microphone.discard();
    this.handsFree = wanted;
    if (!wanted) {
      this.microphone.close();
      return void this.#set("idle");
    }
    this.activity = new VoiceActivity();
    this.#set("opening");
    const isOpen = await this.#open();
    if (!isOpen || !this.handsFree) {
      this.handsFree = false; // refused, or turned off meanwhile
      this.microphone.close();
    } else if (!this.microphone.isHeard) {
      this.handsFree = false;
      this.cancel();
      this.told.onProblem("This browser cannot listen all the time. Hold to talk instead.");
    } else {
      this.#set("listening");
    }
  }

  async #open() {
    try {
      await this.microphone.open({ cancelEcho: this.handsFree });
      return true;
    } catch (error) {
      const isWanted = this.state !== "idle";
      this.#set("idle");
      if (isWanted) this.told.onProblem(error.message);
      return false;
    }
  }

  /** @param {number} beforeS @param {TalkState} state */
  #begin(beforeS, state) {
    this.began = performance.now();
    this.levels = [];
    this.microphone.start(beforeS);
    this.#set(state);
  }

  /** @param {boolean} send @param {number} [quietS]  at the end, of which a little is kept */
  async #finish(send, quietS = 0) {
    const since = performance.now() - 1000 * quietS;
    const sound = await this.microphone.stop();
    if (this.handsFree) {
      this.#set("listening");
    } else {
      this.microphone.closeSoon();
      this.#set("idle");
    }
    const extra = Math.max(0, Math.round((quietS - AFTER_SPEECH_S) * sound.rate));
    const samples = sound.samples.subarray(0, sound.samples.length - extra);
    if (!samples.some((sample) => Math.abs(sample) > SILENT)) {
      this.told.onProblem("Nothing was heard. Is the microphone muted?");
    } else {
      this.told.onClip({ samples: samples.slice(), rate: sound.rate }, send, since);
    }
  }

  /** @param {Float32Array} block @param {number} rate */
  #hear(block, rate) {
    this.levels.push(Math.max(0, Math.min(1, (loudness(block) + 60) / 55)) ** 2);
    if (this.levels.length > 500) this.levels.shift();
    if (this.isRecording && this.seconds > LONGEST_S) return void this.#finish(this.state === "hearing");
    if (!this.handsFree) return;
    const change = this.activity.push(block, rate);
    if (change === "started" && this.state === "listening") {
      this.told.onBegin();
      this.#begin(BEFORE_SPEECH_S, "hearing");
    } else if (change === "stopped" && this.state === "hearing") {
      this.#finish(true, END_S);
    }
  }

  /** @param {TalkState} state */
  #set(state) {
    this.state = state;
    this.told.onState(state);
  }
}
