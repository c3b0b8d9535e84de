/** Conversations in IndexedDB, settings in localStorage, the key for this tab alone. Nothing leaves the browser. */

/** @typedef {import("./types.js").Conversation} Conversation @typedef {import("./types.js").Settings} Settings */

/** @type {Settings} */
const DEFAULTS = { key: "", instructions: "", maxTokens: null, temperature: 0, speak: true, transcripts: true, theme: "system" };
const SETTINGS = "sonant.settings";
const KEY = "sonant.key";

/** Returns a name that no other conversation has. (randomUUID exists on https and localhost only.) */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns the settings, what was never set at its default. @returns {Settings} */
export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}"), key: sessionStorage.getItem(KEY) ?? "" };
  } catch {
    return { ...DEFAULTS };
  }
}

/** Keeps the settings; the key until this tab is closed. @param {Settings} settings */
export function saveSettings({ key, ...settings }) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
    sessionStorage.setItem(KEY, key);
  } catch {
    // A browser that keeps nothing: the settings hold until the page is left.
  }
}

/** Conversations, kept in the browser; in memory alone where the browser keeps nothing. */
export class Store {
  /** @param {IDBDatabase | null} database */
  constructor(database) {
    this.database = database;
    /** @type {Map<string, Conversation>} */
    this.memory = new Map();
  }

  /** Returns the store. @returns {Promise<Store>} */
  static async open() {
    try {
      const request = indexedDB.open("sonant", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
      return new Store(await done(request));
    } catch {
      return new Store(null);
    }
  }

  /** Whether conversations outlive the page. */
  get lasts() {
    return this.database !== null;
  }

  /** Returns every conversation, the latest first. @returns {Promise<Conversation[]>} */
  async all() {
    const found = this.database ? await done(this.#table("readonly").getAll()) : [...this.memory.values()];
    return found.sort((a, b) => b.updatedAt - a.updatedAt);
  }

  /** Keeps a conversation as it is now. @param {Conversation} conversation */
  async save(conversation) {
    if (this.database) await done(this.#table("readwrite").put(conversation));
    else this.memory.set(conversation.id, conversation);
  }

  /** Forgets a conversation. @param {string} id */
  async delete(id) {
    if (this.database) await done(this.#table("readwrite").delete(id));
    else this.memory.delete(id);
  }

  /** @param {IDBTransactionMode} mode */
  #table(mode) {
    return this.database.transaction("conversations", mode).objectStore("conversations");
  }
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
