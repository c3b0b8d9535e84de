/** Conversations in IndexedDB, settings in localStorage, the key for this tab alone. Nothing leaves the browser. */

/** @typedef {import("./types.js").Conversation} Conversation @typedef {import("./types.js").Settings} Settings */
/** @typedef {Pick<Conversation, "id" | "title" | "updatedAt">} Title */

/** @type {Settings} */
const DEFAULTS = { key: "", instructions: "", maxTokens: null, temperature: 0, speak: true, transcripts: true, theme: "system" };
const TABLES = ["titles", "conversations"];
const SETTINGS = "sonant.settings";
const KEY = "sonant.key";
const OPEN = "sonant.open"; // which conversation a reload of this tab comes back to

/** Returns a name that no other conversation has. (randomUUID exists on https and localhost only.) */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns what `use` does; undefined in a browser that keeps nothing: settings hold until the page is left. */
function tried(use) {
  try {
    return use();
  } catch {
    return undefined;
  }
}

/** Returns the settings, what was never set at its default. @returns {Settings} */
export function loadSettings() {
  const kept = tried(() => ({ ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}"), key: sessionStorage.getItem(KEY) ?? "" }));
  return { ...DEFAULTS, ...kept };
}

/** Keeps the settings; the key until this tab is closed. @param {Settings} settings */
export function saveSettings({ key, ...settings }) {
  tried(() => {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
    sessionStorage.setItem(KEY, key);
  });
}

/** Returns which conversation was open last in this tab, "" if none was. */
export function lastOpen() {
  return tried(() => sessionStorage.getItem(OPEN)) ?? "";
}

/** Remembers which conversation is open in this tab. @param {string} id */
export function rememberOpen(id) {
  tried(() => sessionStorage.setItem(OPEN, id));
}

/** Conversations, kept in the browser; in memory alone where the browser keeps nothing. Titles are read without clips. */
export class Store {
  /** @param {IDBDatabase | null} database */
  constructor(database) {
    this.database = database;
    /** @type {Map<string, Conversation>} */
    this.memory = new Map();
  }

  /** @returns {Promise<Store>} */
  static async open() {
    try {
      const request = indexedDB.open("sonant", 1);
      request.onupgradeneeded = () => TABLES.forEach((name) => request.result.createObjectStore(name, { keyPath: "id" }));
      return new Store(await done(request));
    } catch {
      return new Store(null);
    }
  }

  /** Whether conversations outlive the page. */
  get lasts() {
    return this.database !== null;
  }

  /** Returns what conversations there are, the latest first. @returns {Promise<Title[]>} */
  async titles() {
    const found = this.database ? await done(this.#table("titles").getAll()) : [...this.memory.values()];
    return found.sort((a, b) => b.updatedAt - a.updatedAt);
  }

  /** @param {string} id @returns {Promise<Conversation | undefined>} */
  async get(id) {
    return this.database ? done(this.#table("conversations").get(id)) : this.memory.get(id);
  }

  /** @param {Conversation} conversation */
  async save(conversation) {
    const { id, title, updatedAt } = conversation;
    if (!this.database) return void this.memory.set(id, conversation);
    const change = this.database.transaction(TABLES, "readwrite");
    change.objectStore("titles").put({ id, title, updatedAt });
    change.objectStore("conversations").put(conversation);
    await kept(change); // a full disk is told when all is over, not by what was put
  }

  /** @param {string} id */
  async delete(id) {
    if (!this.database) return void this.memory.delete(id);
    const change = this.database.transaction(TABLES, "readwrite");
    TABLES.forEach((name) => change.objectStore(name).delete(id));
    await kept(change);
  }

  /** @param {string} name */
  #table(name) {
    return this.database.transaction(name).objectStore(name);
  }
}

/** @param {IDBTransaction} change @returns {Promise<void>} */
function kept(change) {
  return new Promise((resolve, reject) => {
    change.oncomplete = () => resolve();
    change.onabort = () => reject(change.error);
  });
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
