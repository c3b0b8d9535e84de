/** The page: which conversation is open, who speaks, and what a key or a click does. */

import { Api, ApiError } from "./api.js";
import { readAnswer } from "./asking.js";
import { Composer } from "./composer.js";
import { byId, toast } from "./dom.js";
import { fromManifest, toLine } from "./manifest.js";
import { Microphone } from "./microphone.js";
import { Player } from "./player.js";
import { SettingsView } from "./settings-view.js";
import { download, Sidebar } from "./sidebar.js";
import { lastOpen, loadSettings, newId, rememberOpen, saveSettings, Store } from "./store.js";
import { Talking } from "./talking.js";
import { Thread } from "./thread.js";
import { entitle } from "./title.js";
import { decodeSound } from "./wav.js";

/** @typedef {import("./types.js").Conversation} Conversation @typedef {import("./types.js").Part} Part @typedef {import("./types.js").Message} Message */

const RETRY_MS = 3000; // until a server that is away is looked for again
const SLID_OFF_PX = 70; // from the button that talks: the clip is thrown away

const settings = loadSettings();
const api = new Api(() => settings.key);
const player = new Player();
/** @type {Store} */
let store;
/** @type {Conversation} */
let current = fresh();
/** @type {{name: string, hasVoice: boolean} | null} */
let model = null;
/** @type {AbortController | null} */
let asking = null;
let answered = Promise.resolve(); // once nothing is being answered
/** @type {Map<string, WeakRef<Conversation>>} */
const live = new Map(); // those that something may still be written into
/** @type {Set<string>} */
const gone = new Set(); // deleted: a late transcript does not bring them back

const composer = new Composer(player, { onSend: send, onStop: stop, onFiles: addFiles });
const thread = new Thread(byId("thread"), player, { onChange: () => keep(current), onAgain: again });
const sidebar = new Sidebar({
  onOpen: open,
  onNew: () => show(fresh()),
  onRename: rename,
  onDelete: remove,
  onExport: save,
  onImport: read,
});
const settingsView = new SettingsView(settings, () => {
  saveSettings(settings);
  if (!hasBegun(current)) current.messages = fresh().messages;
  thread.redraw();
  if (!model && settings.key) connect();
});
const talking = new Talking(new Microphone(), {
  onState: () => composer.showTalking(talking),
  onBegin: () => {
    player.wake();
    stop();
  },
  onClip: (sound, now, since) => {
    composer.addClip(sound);
    if (now) composer.submit(since);
  },
  onProblem: toast,
});

/** Returns a conversation that has not begun. @returns {Conversation} */
function fresh() {
  const { instructions } = settings;
  /** @type {Message[]} */
  const messages = instructions ? [{ role: "system", parts: [{ type: "text", text: instructions }] }] : [];
  return { id: newId(), title: "", named: false, updatedAt: Date.now(), messages };
}

/** @param {Conversation} conversation */
function hasBegun({ messages }) {
  return messages.some(({ role }) => role !== "system");
}

/** Finds out who answers; asks for the key where one is wanted. */
async function connect() {
  try {
    model = await api.model();
    tell("ready", model.name);
    byId("speak").hidden = byId("aloud").hidden = !model.hasVoice;
  } catch (error) {
    tell("away", error.status === 401 ? "Key needed" : "Server not reached");
    if (error.status === 401) settingsView.open(settings.key ? "The server does not take this key." : "This server asks for a key.");
    else setTimeout(connect, RETRY_MS);
  }
}

/** @param {"ready" | "away"} state @param {string} text */
function tell(state, text) {
  byId("model").dataset.state = state;
  byId("model-name").textContent = text;
}

/** Asks what was put together. @param {Part[]} parts @param {number} since  performance.now() at its end */
async function send(parts, since) {
  player.wake();
  /** @type {Message} */
  const message = { role: "user", parts };
  if (!hasBegun(current)) thread.show(current.messages);
  byId("thread").querySelector(".notice")?.remove();
  current.messages.push(message);
  document.body.classList.add("talked");
  thread.add(message);
  entitle(current);
  answered = answer(current, since);
  await keep(current);
}

/** Answers the question that a conversation ends in. @param {Conversation} conversation @param {number} since */
async function answer(conversation, since) {
  const controller = (asking = new AbortController());
  /** @type {Message} */
  const reply = { role: "assistant", parts: [] };
  const view = thread.begin(reply);
  composer.setAnswering(true);
  const { maxTokens, temperature, speak } = settings;
  const options = { model: model?.name ?? "", speak: speak && Boolean(model?.hasVoice), maxTokens, temperature };
  const question = { api, messages: [...conversation.messages], options, since, signal: controller.signal };
  let problem = null;
  try {
    await readAnswer(question, reply, view, player);
  } catch (error) {
    problem = error;
    reply.finish = "stopped";
  }
  if (asking === controller) {
    asking = null;
    composer.setAnswering(false);
  }
  if (reply.parts.length) {
    conversation.messages.push(reply);
    view.finish();
  } else {
    view.element.remove();
    byId("thread").removeAttribute("aria-busy");
  }
  if (problem) refused(problem, conversation);
  else if (!reply.parts.length && conversation === current) thread.offer("Stopped before an answer came.");
  await keep(conversation);
  if (!problem) transcribe(conversation);
}

/** Shows why there is no answer. @param {any} error @param {Conversation} conversation */
function refused(error, conversation) {
  if (!(error instanceof ApiError)) console.error(error);
  if (error.status === 401) {
    model = null;
    settingsView.open("The server does not take this key.");
  } else if (error.status === 0) {
    connect();
  }
  const wait = error.retryAfter ? `\nTry again in ${error.retryAfter} s.` : "";
  if (conversation === current) thread.offer(`${error.message}${wait}`);
}

/** Lets the model write down what it was told, once it has answered. @param {Conversation} conversation */
async function transcribe(conversation) {
  const question = conversation.messages.findLast(({ role }) => role === "user");
  if (!settings.transcripts || !question || !model) return;
  for (const part of question.parts) {
    if (part.type !== "audio" || part.heard !== undefined || part.transcript !== undefined) continue;
    try {
      part.heard = await api.transcribe(model.name, part);
    } catch (error) {
      toast(`No transcript: ${error.message}`);
      return;
    }
    thread.clips.get(part)?.showHeard();
    thread.follow();
    entitle(conversation);
    await keep(conversation);
  }
}

/** Asks the last question again, in place of its answer. */
async function again() {
  const { messages } = current;
  stop();
  await answered;
  const last = messages.findLastIndex(({ role }) => role === "user");
  if (last < 0) return;
  messages.splice(last + 1);
  thread.show(messages);
  answered = answer(current, performance.now());
}

function stop() {
  asking?.abort();
  player.stop();
}

/** Writes a conversation down and lists it. @param {Conversation} conversation */
async function keep(conversation) {
  if (gone.has(conversation.id)) return;
  live.set(conversation.id, new WeakRef(conversation));
  conversation.updatedAt = Date.now();
  try {
    await store.save(conversation);
  } catch (error) {
    toast(`This browser could not keep the conversation: ${error.message}`);
  }
  await list();
}

async function list() {
  rememberOpen(current.id);
  sidebar.show(await store.titles(), current.id);
}

/** @param {Conversation} conversation */
async function show(conversation) {
  stop();
  current = conversation;
  composer.clear();
  thread.show(conversation.messages);
  document.body.classList.toggle("talked", hasBegun(conversation));
  if (conversation.messages.at(-1)?.role === "user") thread.offer("This question has no answer yet.");
  byId("text").focus({ preventScroll: true });
  await list();
}

/** Returns a conversation as it is now. @param {string} id @returns {Promise<Conversation | undefined>} */
async function find(id) {
  return id === current.id ? current : (live.get(id)?.deref() ?? store.get(id));
}

/** @param {string} id */
async function open(id) {
  const found = await find(id);
  if (found && id !== current.id) await show(found);
}

/** @param {string} id @param {string} title */
async function rename(id, title) {
  const found = await find(id);
  Object.assign(found, { title, named: true });
  await store.save(found);
  await list();
}

/** Deletes a conversation, and offers to bring it back. @param {string} id */
async function remove(id) {
  if (id === current.id) {
    stop();
    await answered;
  }
  const found = await find(id);
  gone.add(id);
  await store.delete(id);
  if (id === current.id) await show(fresh());
  await list();
  const act = async () => {
    gone.delete(id);
    await store.save(found);
    await list();
  };
  toast("Deleted.", { label: "Undo", act });
}

/** Gives a conversation, or all, as a manifest. @param {string | null} id */
async function save(id) {
  const chosen = (await store.titles()).filter((title) => id === null || title.id === id);
  const name = id === null ? "conversations" : chosen[0].title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  const lines = [];
  for (const title of chosen) lines.push(`${toLine(await store.get(title.id))}\n`);
  download(`${name || "conversation"}.jsonl`, lines);
}

/** Takes the conversations of a manifest in. @param {File} file */
async function read(file) {
  try {
    const found = await fromManifest(await file.text());
    for (const conversation of found) {
      if (!conversation.title) conversation.named = false;
      entitle(conversation);
      await store.save(conversation);
    }
    toast(`${found.length} opened from ${file.name}.`);
    await show(found[0]);
  } catch (error) {
    toast(`${file.name} cannot be opened: ${error.message}`);
  }
}

/** @param {File[]} files */
async function addFiles(files) {
  for (const file of files) {
    if (/\.jsonl?$/i.test(file.name)) {
      await read(file);
      continue;
    }
    try {
      composer.addClip(await decodeSound(new Uint8Array(await file.arrayBuffer())), file.name);
    } catch (error) {
      toast(`${file.name}: ${error.message}.`);
    }
  }
}

/** Whether a key that is pressed there is typed there. @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

function listen() {
  const talk = byId("talk");
  const { classList } = document.body;
  talk.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    talk.setPointerCapture(event.pointerId);
    talking.press();
  });
  talk.addEventListener("pointerup", (event) => {
    const { left, right, top, bottom } = talk.getBoundingClientRect();
    const away = Math.max(left - event.clientX, event.clientX - right, top - event.clientY, event.clientY - bottom);
    if (away > SLID_OFF_PX && talking.state === "held") talking.cancel();
    else talking.release();
  });
  talk.addEventListener("pointercancel", () => talking.cancel());
  talk.addEventListener("click", (event) => event.detail === 0 && talking.tap());
  talk.addEventListener("contextmenu", (event) => event.preventDefault());
  byId("hands-free").onclick = () => talking.setHandsFree(!talking.handsFree);
  byId("discard").onclick = () => talking.cancel();
  byId("pictures").onclick = () => {
    byId("pictures").setAttribute("aria-pressed", classList.toggle("pictures"));
    thread.redraw();
  };
  document.addEventListener("keydown", onKeyDown);
  document.addEventListener("keyup", (event) => {
    if (event.code !== "Space") return;
    if (event.target === talk) event.preventDefault(); // Firefox would click it
    talking.release();
  });
  window.addEventListener("blur", () => talking.state === "held" && talking.cancel()); // its end might not be seen
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    classList.remove("dropping");
    addFiles([...event.dataTransfer.files]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => thread.redraw());
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  const { target } = event;
  if (byId("settings").open) return;
  if (event.key === "Escape") {
    if (talking.state !== "idle") talking.cancel();
    else stop();
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    show(fresh());
  } else if (event.code === "Space" && (!isTyping(target) || (target === byId("text") && !byId("text").value))) {
    // On a button, space presses that button; on the one that talks, or with nothing typed, it talks.
    if (target instanceof HTMLElement && target.closest("button, summary, a") && target !== byId("talk")) return;
    event.preventDefault();
    if (!event.repeat) talking.press();
  } else if (event.key === "/" && !isTyping(target)) {
    event.preventDefault();
    byId("text").focus();
  }
}

/** Takes the key out of the address; returns whether there was one. */
function takeKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return false;
  settings.key = key;
  saveSettings(settings);
  history.replaceState(null, "", location.pathname);
  return true;
}

async function begin() {
  takeKey();
  window.addEventListener("hashchange", () => takeKey() && connect());
  if (matchMedia("(hover: none)").matches) byId("text").placeholder = "Type, or hold the button to talk";
  store = await Store.open();
  if (!store.lasts) toast("This browser keeps nothing: conversations end with this page.");
  listen();
  connect();
  await open(lastOpen());
  await list();
}

begin();
