/** The microphone, block by block: an AudioWorklet at 16 kHz, or MediaRecorder where there is none. */

import { decodeSound, joined, toInt16 } from "./wav.js";

const RATE = 16000;
const KEPT_OPEN_MS = 20000; // after a recording: the next one misses no syllable, the light goes out soon
const KEPT_S = 0.5; // of what was before a recording; how much of it belongs to one, its caller says
const REASONS = {
  NotAllowedError: "The microphone is blocked. Allow it beside the address, then try again.",
  NotFoundError: "No microphone was found. Plug one in, or drop a recording here.",
  NotReadableError: "Another program holds the microphone. Close it and try again.",
};

/** Why there is no sound. */
export class MicrophoneError extends Error {}

export class Microphone {
  constructor() {
    /** @type {(block: Float32Array, rate: number) => void} hears all while it is open, recording or not */
    this.onBlock = () => {};
    /** @type {{stream: MediaStream, context?: AudioContext, rate: number, cancelEcho: boolean} | null} */
    this.open_ = null;
    /** @type {Float32Array[] | null} */
    this.recording = null;
    /** @type {Float32Array[]} */
    this.before = [];
    this.recorder = null;
    this.closing = 0;
    this.turn = 0; // counts how often it was closed: what is opened slowly may be wanted no more
  }

  /**
   * Begins to record; the microphone is open.
   * @param {number} beforeS  how much of what was before belongs to it, up to half a second
   */
  start(beforeS) {
    const { context, rate } = this.open_;
    if (!context) this.#startRecorder();
    const blocks = Math.ceil((beforeS * rate) / (this.before[0]?.length ?? 1));
    this.recording = this.before.slice(-blocks);
  }

  /** Returns what was recorded since `start`; the microphone stays open for a while. @returns {Promise<import("./types.js").Sound>} */
  async stop() {
    const pieces = this.recording ?? [];
    this.recording = null;
    if (this.recorder) return this.#stopRecorder();
    return { samples: toInt16(joined(pieces)), rate: this.open_?.rate ?? RATE };
  }

  /** Throws away what was recorded since `start`. */
  discard() {
    this.recording = null;
    this.recorder?.stop();
    this.recorder = null;
  }

  /** Closes the microphone in a while, unless it is opened again. */
  closeSoon() {
    clearTimeout(this.closing);
    this.closing = setTimeout(() => this.close(), KEPT_OPEN_MS);
  }

  /**
   * Opens the microphone, if it is not open.
   * @param {{cancelEcho?: boolean}} [options]  true where answers are played meanwhile
   * @throws {MicrophoneError}
   */
  async open({ cancelEcho = false } = {}) {
    clearTimeout(this.closing);
    if (this.open_?.cancelEcho === cancelEcho && this.open_.stream.active) return;
    this.close();
    const { turn } = this;
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new MicrophoneError("Browsers give a microphone to https and localhost only. Typing and files work here.");
    }
    // What the model hears is what was said: the browser's cleaning is for telephone calls.
    const audio = { channelCount: 1, echoCancellation: cancelEcho, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio }).catch((error) => {
      throw new MicrophoneError(reason(error));
    });
    const opened = { stream, rate: RATE, cancelEcho };
    try {
      if (window.AudioWorkletNode) Object.assign(opened, await this.#connect(stream));
    } catch (error) {
      release(opened);
      throw new MicrophoneError(reason(error));
    }
    if (turn !== this.turn) {
      release(opened);
      throw new MicrophoneError("The microphone was turned off while it was opened.");
    }
    this.open_ = opened;
  }

  /** Whether blocks are heard while it is open: MediaRecorder gives its sound at the end alone. */
  get isHeard() {
    return Boolean(this.open_?.context);
  }

  close() {
    clearTimeout(this.closing);
    this.turn += 1;
    this.recording = this.recorder = null;
    this.before = [];
    if (this.open_) release(this.open_);
    this.open_ = null;
  }

  /** Returns what hands its sound over, and at which rate. @param {MediaStream} stream */
  async #connect(stream) {
    let context = new AudioContext({ sampleRate: RATE });
    let source;
    try {
      source = context.createMediaStreamSource(stream);
    } catch {
      // Firefox does not resample a microphone: its own rate it is, and the server resamples.
      await context.close();
      context = new AudioContext();
      source = context.createMediaStreamSource(stream);
    }
    try {
      await context.audioWorklet.addModule("/page/capture-worklet.js");
      await context.resume();
    } catch (error) {
      await context.close();
      throw error;
    }
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => this.#take(data, context.sampleRate);
    source.connect(capture);
    return { context, rate: context.sampleRate };
  }

  /** @param {Float32Array} block @param {number} rate */
  #take(block, rate) {
    this.recording?.push(block);
    this.before.push(block);
    while (this.before.length * block.length > KEPT_S * rate) this.before.shift();
    this.onBlock(block, rate);
  }

  #startRecorder() {
    /** @type {Blob[]} */
    const pieces = [];
    this.pieces = pieces;
    this.recorder = new MediaRecorder(this.open_.stream);
    this.recorder.ondataavailable = ({ data }) => pieces.push(data);
    this.recorder.start();
  }

  async #stopRecorder() {
    const { recorder, pieces } = this;
    this.recorder = null;
    await new Promise((resolve) => {
      recorder.onstop = resolve;
      recorder.stop();
    });
    const file = new Blob(pieces, { type: recorder.mimeType });
    return decodeSound(new Uint8Array(await file.arrayBuffer()));
  }
}

/** @param {{stream: MediaStream, context?: AudioContext}} opened */
function release({ stream, context }) {
  stream.getTracks().forEach((track) => track.stop());
  if (context && context.state !== "closed") context.close();
}

/** @param {DOMException} error */
function reason({ name, message }) {
  return REASONS[name] ?? `The microphone cannot be opened: ${message}`;
}
