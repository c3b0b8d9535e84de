/** One answer, from the question's end to its own: read as it streams, played as it is said, timed as it is met. */

import { VOICE_RATE } from "./api.js";
import { duration, joined } from "./wav.js";

/** @typedef {import("./types.js").Message} Message */

const HIDDEN_MS = 100; // without a frame: nobody looks

/**
 * Reads an answer into `answer` until it ends. What has come stays, also where this throws.
 * @param {object} question
 * @param {import("./api.js").Api} question.api
 * @param {Message[]} question.messages
 * @param {{model: string, speak: boolean, maxTokens: number | null, temperature: number}} question.options
 * @param {number} question.since            performance.now() at the end of the question
 * @param {AbortSignal} question.signal
 * @param {Message} answer                   empty as yet
 * @param {{update: () => void, clip: import("./clip-view.js").ClipView | null}} view
 * @param {import("./player.js").Player} player
 * @throws {import("./api.js").ApiError}
 */
export async function readAnswer({ api, messages, options, since, signal }, answer, view, player) {
  /** @type {import("./types.js").Timings} */
  const timings = { wholeMs: 0 };
  answer.timings = timings;
  const pieces = [];
  let voice = null;
  let worded = false;
  let painted = Promise.resolve();
  signal.addEventListener("abort", () => voice && player.stop());
  try {
    for await (const { text, said, samples, finish, tokens } of api.answer(messages, options, signal)) {
      if (text) {
        textOf(answer).text += text;
        view.update();
        if (!worded && text.trim()) {
          worded = true;
          painted = onScreen().then(() => void (timings.firstWordMs = performance.now() - since));
        }
      }
      if (samples) {
        timings.firstSoundMs ??= performance.now() - since;
        pieces.push(samples);
        soundOf(answer).samples = joined(pieces);
        view.update();
        if (!voice) {
          view.clip.shows(true);
          voice = player.stream(VOICE_RATE, view.clip.told);
        }
        voice.push(samples);
      }
      if (said) soundOf(answer).transcript = said;
      if (finish) answer.finish = finish;
      if (tokens) timings.tokens = tokens;
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    answer.finish = "stopped";
  } finally {
    voice?.end();
    timings.wholeMs = performance.now() - since;
    timings.realTimeFactor = realTimeFactor(messages, answer);
    await Promise.race([painted, new Promise((resolve) => setTimeout(resolve, HIDDEN_MS))]);
    timings.wholeMs = Math.max(timings.wholeMs, timings.firstWordMs ?? 0); // short answers end before they are painted
  }
}

/** @param {Message} answer */
function textOf(answer) {
  return partOf(answer, { type: "text", text: "" });
}

/** @param {Message} answer */
function soundOf(answer) {
  return partOf(answer, { type: "audio", samples: new Int16Array(0), rate: VOICE_RATE });
}

/**
 * Returns the part of an answer that is of the kind of `empty`: that one, if there was none.
 * @template {import("./types.js").Part} P @param {Message} answer @param {P} empty @returns {P}
 */
function partOf({ parts }, empty) {
  const found = parts.find(({ type }) => type === empty.type);
  if (found) return /** @type {P} */ (found);
  if (empty.type === "text") parts.unshift(empty);
  else parts.push(empty);
  return empty;
}

/** Resolves when what was just written is painted: never, while the page is hidden. */
function onScreen() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

/** Returns seconds of work for a second of speech: of the answer, or else of the question's clips. */
function realTimeFactor(messages, answer) {
  const seconds = ({ parts }) => parts.reduce((sum, part) => sum + (part.type === "audio" ? duration(part) : 0), 0);
  const speech = seconds(answer) || seconds(messages.at(-1));
  return speech ? answer.timings.wholeMs / 1000 / speech : undefined;
}
