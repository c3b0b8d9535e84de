/** The server's API as the page uses it: models, chat completions as they stream, transcriptions. */

import { toRequest } from "./manifest.js";
import { encodeWav, fromBase64, fromPcm16 } from "./wav.js";

export const VOICE_RATE = 24000; // of pcm16, as OpenAI has it

/** What the server, or the way to it, refused. */
export class ApiError extends Error {
  /** @param {string} message @param {{status?: number, retryAfter?: number}} [why] status 0: never reached */
  constructor(message, { status = 0, retryAfter } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  /** @param {() => string} key */
  constructor(key) {
    this.key = key;
  }

  /** Returns the model that answers. @returns {Promise<{name: string, hasVoice: boolean}>} */
  async model() {
    const { data } = await (await this.#send("/v1/models")).json();
    if (!data?.length) throw new ApiError("the server has no model", { status: 503 });
    return { name: data[0].id, hasVoice: (data[0].modalities ?? []).includes("audio") };
  }

  /**
   * Yields an answer as it comes: text, what of it is said, sound, how it ended, how many tokens it took.
   * @param {import("./types.js").Message[]} messages
   * @param {{model: string, speak: boolean, maxTokens: number | null, temperature: number}} options
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<{text?: string, said?: string, samples?: Int16Array, finish?: "stop" | "length", tokens?: number}>}
   */
  async *answer(messages, { model, speak, maxTokens, temperature }, signal) {
    const spoken = { modalities: ["text", "audio"], audio: { voice: "default", format: "pcm16" } };
    const body = {
      model,
      messages: toRequest(messages),
      temperature,
      stream: true,
      stream_options: { include_usage: true },
      ...(maxTokens ? { max_completion_tokens: maxTokens } : {}),
      ...(speak ? spoken : {}),
    };
    const headers = { "Content-Type": "application/json" };
    const response = await this.#send("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), headers, signal });
    for await (const event of events(response.body)) {
      if (event.error) throw new ApiError(event.error.message, { status: 500 });
      const { delta, finish_reason: finish } = event.choices?.[0] ?? {};
      if (delta?.content) yield { text: delta.content };
      if (delta?.audio?.transcript) yield { said: delta.audio.transcript };
      if (delta?.audio?.data) yield { samples: fromPcm16(fromBase64(delta.audio.data)) };
      if (finish) yield { finish };
      if (event.usage) yield { tokens: event.usage.completion_tokens };
    }
  }

  /** Returns what the model writes down of a clip. @param {string} model @param {import("./types.js").Sound} sound */
  async transcribe(model, sound) {
    const body = new FormData();
    body.append("model", model);
    body.append("file", new Blob([encodeWav(sound)], { type: "audio/wav" }), "clip.wav");
    const response = await this.#send("/v1/audio/transcriptions", { method: "POST", body });
    return (await response.json()).text;
  }

  /** @param {string} path @param {RequestInit} [options] */
  async #send(path, options = {}) {
    const key = this.key();
    if (/[^\x20-\x7e]/.test(key)) throw new ApiError("The key holds letters that a key cannot have.", { status: 401 });
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
    const message = told?.error?.message ?? `The server answered ${response.status} ${response.statusText}`;
    throw new ApiError(message, { status: response.status, retryAfter });
  }
}

/**
 * Yields the JSON of server-sent events until [DONE].
 * @param {ReadableStream<any>} stream
 * @throws {ApiError} if the stream ends before it is done
 */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ApiError("The answer broke off: the connection was lost.");
      const lines = (waiting + value).split(/\r?\n/);
      waiting = lines.pop() ?? "";
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
