/** A conversation as a line of a Sonant manifest, and back; a part of a question as the API takes it. */

import { newId } from "./store.js";
import { decodeSound, duration, encodeWav, fromBase64, toBase64 } from "./wav.js";

/** @typedef {import("./types.js").Conversation} Conversation @typedef {import("./types.js").Part} Part */

const ROLES = ["system", "user", "assistant"];
const MOST_CLIPS = 16; // in one request, and
const MOST_S = 300; // together: what a server takes unless it is told otherwise

/**
 * Returns the messages of a request. What the model said aloud goes back as the text it wrote, and so do clips of earlier
 * questions that are more than one request may hold: as what was heard in them.
 * @param {import("./types.js").Message[]} messages
 */
export function toRequest(messages) {
  const heard = newest(messages);
  return messages.map(({ role, parts }) => {
    const kept = role === "assistant" ? parts.filter((part) => part.type === "text") : parts.map((part) => (heard.has(part) ? part : asText(part)));
    const onlyText = kept.every((part) => part.type === "text");
    return { role, content: onlyText ? kept.map((part) => part.text).join("") : kept.map(requestPart) };
  });
}

/** Returns the clips that fit, those of the last question always. @param {import("./types.js").Message[]} messages */
function newest(messages) {
  const last = messages.findLast(({ role }) => role === "user");
  const clips = messages.filter(({ role }) => role !== "assistant").flatMap(({ parts }) => parts.filter((part) => part.type === "audio"));
  const fit = new Set();
  let seconds = 0;
  for (const clip of clips.reverse()) {
    seconds += duration(clip);
    if (!last?.parts.includes(clip) && (fit.size >= MOST_CLIPS || seconds > MOST_S)) break;
    fit.add(clip);
  }
  return fit;
}

/** @param {Part} part @returns {import("./types.js").TextPart} */
function asText(part) {
  return part.type === "text" ? part : { type: "text", text: part.transcript ?? part.heard ?? "" };
}

/** @param {Part} part */
function requestPart(part) {
  if (part.type === "text") return { type: "text", text: part.text };
  return { type: "input_audio", input_audio: { data: toBase64(encodeWav(part)), format: "wav" } };
}

/**
 * Returns the conversation as one line of a manifest, its clips inside as base64 WAV.
 *
 * `transcript` is written where a person gave it; what a model heard is `machine_transcript`. A spoken answer that was
 * cut short leaves its sound out, for the manifest's rule is that the sound says the text.
 * @param {Conversation} conversation
 */
export function toLine(conversation) {
  const messages = conversation.messages.map(({ role, parts, extra, finish }) => {
    const whole = role !== "assistant" || finish !== "stopped";
    const content = parts.filter((part) => whole || part.type === "text").map(linePart);
    return { role, content, ...(finish === "stopped" ? { stopped: true } : {}), ...extra };
  });
  return JSON.stringify({ id: conversation.id, task: "chat", title: conversation.title, ...conversation.extra, messages });
}

/** @param {Part} part */
function linePart(part) {
  if (part.type === "text") return { type: "text", text: part.text, ...part.extra };
  const { transcript, heard, name, extra } = part;
  return { type: "audio", data: toBase64(encodeWav(part)), ...extra, transcript, machine_transcript: heard, name };
}

/**
 * Returns the conversations of a manifest; each gets an id of its own here, and keeps the keys that we do not know.
 * @param {string} text
 * @returns {Promise<Conversation[]>}
 * @throws {Error} with line, what is wrong and what would do
 */
export async function fromManifest(text) {
  const found = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (!line.trim()) continue;
    try {
      found.push(await fromLine(JSON.parse(line)));
    } catch (error) {
      throw new Error(`line ${index + 1}: ${error.message}`);
    }
  }
  if (!found.length) throw new Error("there is no conversation in it");
  return found;
}

/** @returns {Promise<Conversation>} */
async function fromLine({ id, task, title, messages, ...extra }) {
  if (!Array.isArray(messages) || !messages.length) throw new Error("messages is missing; give a list of messages");
  const read = [];
  for (const [index, message] of messages.entries()) read.push(await fromMessage(message, `messages[${index}]`));
  const kept = { ...(id ? { id } : {}), ...(task ? { task } : {}), ...extra };
  const named = typeof title === "string" && title !== "";
  return { id: newId(), title: named ? title : String(id || ""), named: true, updatedAt: Date.now(), messages: read, extra: kept };
}

/** @returns {Promise<import("./types.js").Message>} */
async function fromMessage({ role, content, stopped, ...extra }, where) {
  if (!ROLES.includes(role)) throw new Error(`${where}.role is ${JSON.stringify(role)}; allowed are ${ROLES.join(", ")}`);
  const written = typeof content === "string" ? [{ type: "text", text: content }] : content;
  if (!Array.isArray(written)) throw new Error(`${where}.content is missing; give text or a list of parts`);
  const parts = [];
  for (const [index, part] of written.entries()) parts.push(await fromPart(part, `${where}.content[${index}]`));
  return { role, parts, extra, ...(role === "assistant" ? { finish: stopped ? "stopped" : "stop" } : {}) };
}

/** @returns {Promise<Part>} */
async function fromPart({ type, ...values }, where) {
  if (type === "text" && typeof values.text === "string") {
    const { text, ...extra } = values;
    return { type, text, extra };
  }
  if (type !== "audio") throw new Error(`${where}.type is ${JSON.stringify(type)}; allowed are text and audio`);
  const { data, path, offset_s, duration_s, transcript, machine_transcript, name, ...extra } = values;
  if (typeof data !== "string") throw new Error(`${where} names the file ${path}, which a page cannot open; give its bytes as data`);
  let bytes;
  try {
    bytes = fromBase64(data);
  } catch {
    throw new Error(`${where}.data is not base64`);
  }
  const sound = await decodeSound(bytes).catch((error) => {
    throw new Error(`${where}: ${error.message}`);
  });
  const first = Math.round((offset_s ?? 0) * sound.rate);
  const end = duration_s == null ? sound.samples.length : first + Math.round(duration_s * sound.rate);
  const known = { transcript: transcript ?? undefined, heard: machine_transcript ?? undefined, name: name ?? undefined };
  return { type, samples: sound.samples.slice(first, end), rate: sound.rate, ...known, extra };
}
