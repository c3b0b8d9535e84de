/** Sounds to and from bytes: WAV, base64, and whatever else the browser can decode. */

const SPEECH_RATE = 16000;

/**
 * Returns a sound as a WAV file of 16 bits, mono.
 * @param {import("./types.js").Sound} sound
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeWav({ samples, rate }) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const put = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  put(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  put(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a frame
  view.setUint16(34, 16, true); // bits a sample
  put(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, sample, true));
  return new Uint8Array(view.buffer);
}

/**
 * Returns the sound of a file of any kind this browser decodes. Mono WAV of 16 bits is taken sample by sample.
 * @param {Uint8Array} bytes
 * @returns {Promise<import("./types.js").Sound>}
 * @throws {Error} if the browser cannot decode it, or nothing is in it
 */
export async function decodeSound(bytes) {
  const plain = plainWav(bytes);
  if (plain) return plain;
  const context = new OfflineAudioContext(1, 1, SPEECH_RATE);
  let decoded;
  try {
    decoded = await context.decodeAudioData(bytes.slice().buffer);
  } catch {
    throw new Error("this browser cannot decode it; try WAV, MP3, FLAC or Ogg");
  }
  const mono = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    decoded.getChannelData(channel).forEach((sample, i) => (mono[i] += sample / decoded.numberOfChannels));
  }
  if (!mono.length) throw new Error("there is no sound in it");
  return { samples: toInt16(mono), rate: SPEECH_RATE };
}

/** Returns the sound of a mono 16-bit WAV file, null of any other. @param {Uint8Array} bytes */
function plainWav(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = (at) => (at + 4 <= bytes.length ? String.fromCharCode(...bytes.subarray(at, at + 4)) : "");
  if (name(0) !== "RIFF" || name(8) !== "WAVE") return null;
  let rate = 0;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    if (name(at) === "fmt " && size >= 16) {
      const isPlain = view.getUint16(at + 8, true) === 1 && view.getUint16(at + 10, true) === 1;
      if (!isPlain || view.getUint16(at + 22, true) !== 16) return null;
      rate = view.getUint32(at + 12, true);
    } else if (name(at) === "data") {
      const length = Math.floor(Math.min(size, bytes.length - at - 8) / 2);
      if (!rate || !length) return null;
      return { samples: fromPcm16(bytes.subarray(at + 8, at + 8 + 2 * length)), rate };
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

/** Returns little-endian PCM16 bytes as samples. @param {Uint8Array} bytes */
export function fromPcm16(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Int16Array.from({ length: bytes.length >> 1 }, (_, i) => view.getInt16(2 * i, true));
}

/** Returns samples in [-1, 1] as 16 bits; beyond, they are clipped. @param {Float32Array} samples */
export function toInt16(samples) {
  return Int16Array.from(samples, (x) => Math.round(Math.max(-32768, Math.min(32767, x * 32768))));
}

/** Returns stretches of sound as one. @template {Int16Array | Float32Array} A @param {A[]} pieces @returns {A} */
export function joined(pieces) {
  /** @type {any} */
  const Kind = pieces.length ? pieces[0].constructor : Int16Array;
  const whole = new Kind(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(binary);
}

/** @param {string} text @throws {DOMException} if it is none */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Returns seconds. @param {import("./types.js").Sound} sound */
export function duration(sound) {
  return sound.samples.length / sound.rate;
}
