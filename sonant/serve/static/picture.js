/** Pictures of sound: waveform and spectrogram, in the colours of the style sheet. */

/** @typedef {import("./types.js").Sound} Sound */

const BAR = 2; // CSS pixels of a bar, and of the gap beside it
const MELS = 64;
const WINDOW_S = 0.032;
const RANGE_DB = 65; // below the loudest place all is background
const FAINTEST_DB = -50; // a clip quieter than this is shown as quiet, not blown up

/**
 * Fits a canvas to its box and the screen's pixels; returns its context, cleared, in CSS pixels.
 * @param {HTMLCanvasElement} canvas
 */
function prepared(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height, colour: (name) => getComputedStyle(canvas).getPropertyValue(name).trim() };
}

/** Fills a bar for a level of 0 to 1, in the middle of the height. */
function fillBar(context, left, height, level) {
  const tall = Math.max(BAR, Math.sqrt(level) * height);
  context.beginPath();
  context.roundRect(left, (height - tall) / 2, BAR, tall, BAR / 2);
  context.fill();
}

/**
 * Draws a waveform; what has been played, up to `progress` of 0 to 1, in the accent.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} peaks  as `peaksOf` returns them
 * @param {number} [progress]
 */
export function drawWave(canvas, peaks, progress = 0) {
  const { context, width, height, colour } = prepared(canvas);
  const count = Math.floor(width / (2 * BAR));
  const played = colour("--accent");
  const ahead = colour("--wave");
  for (let bar = 0; bar < count; bar++) {
    const first = Math.floor((bar * peaks.length) / count);
    const end = Math.max(first + 1, Math.floor(((bar + 1) * peaks.length) / count));
    context.fillStyle = bar / count < progress ? played : ahead;
    fillBar(context, bar * 2 * BAR, height, Math.max(...peaks.subarray(first, end)));
  }
}

/**
 * Draws the last seconds of a recording that still goes on, from the right.
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} levels  0 to 1, the latest last
 */
export function drawLevels(canvas, levels) {
  const { context, width, height, colour } = prepared(canvas);
  const count = Math.floor(width / (2 * BAR));
  context.fillStyle = colour("--accent");
  for (let bar = 0; bar < count; bar++) {
    fillBar(context, width - (bar + 1) * 2 * BAR, height, levels.at(-1 - bar) ?? 0);
  }
}

/** Returns 400 peaks of a clip, the largest of them 1 unless all is silence. @param {Sound} sound */
export function peaksOf({ samples }) {
  const peaks = new Float32Array(Math.min(400, Math.max(1, samples.length)));
  let largest = 600; // of 32768: silence stays flat
  for (let i = 0; i < peaks.length; i++) {
    const end = Math.floor(((i + 1) * samples.length) / peaks.length);
    for (let at = Math.floor((i * samples.length) / peaks.length); at < end; at++) {
      peaks[i] = Math.max(peaks[i], Math.abs(samples[at]));
    }
    largest = Math.max(largest, peaks[i]);
  }
  return peaks.map((peak) => peak / largest);
}

/**
 * Draws a mel spectrogram, low tones at the bottom.
 * @param {HTMLCanvasElement} canvas
 * @param {Sound} sound
 */
export function drawSpectrogram(canvas, sound) {
  const { context, width, height, colour } = prepared(canvas);
  const columns = Math.max(1, Math.min(600, Math.round(width)));
  const levels = melLevels(sound, columns);
  const top = levels.reduce((most, level) => Math.max(most, level), FAINTEST_DB);
  const ramp = ramped(["--spectrum-0", "--spectrum-1", "--spectrum-2", "--spectrum-3"].map((name) => rgb(colour(name))));
  const image = new ImageData(columns, MELS);
  levels.forEach((level, i) => {
    const strength = Math.max(0, Math.min(1, 1 + (level - top) / RANGE_DB));
    const row = MELS - 1 - (i % MELS);
    image.data.set(ramp[Math.round(strength * 255)], 4 * (row * columns + Math.floor(i / MELS)));
  });
  const small = new OffscreenCanvas(columns, MELS);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
}

/** Returns columns x MELS levels in dB, column by column. @param {Sound} sound @param {number} columns */
function melLevels({ samples, rate }, columns) {
  const length = Math.round(WINDOW_S * rate);
  const size = 2 ** Math.ceil(Math.log2(length) + 1);
  const taper = Float32Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / length));
  const edges = melEdges(rate, size);
  const levels = new Float32Array(columns * MELS);
  const [real, imaginary] = [new Float32Array(size), new Float32Array(size)];
  for (let column = 0; column < columns; column++) {
    const start = Math.round(((column + 0.5) * samples.length) / columns - length / 2);
    real.fill(0);
    imaginary.fill(0);
    for (let i = 0; i < length; i++) real[i] = ((samples[start + i] ?? 0) / 32768) * taper[i];
    transform(real, imaginary);
    for (let mel = 0; mel < MELS; mel++) {
      let sum = 0;
      for (let bin = edges[mel]; bin < edges[mel + 1]; bin++) sum += real[bin] ** 2 + imaginary[bin] ** 2;
      levels[column * MELS + mel] = 10 * Math.log10(sum / (edges[mel + 1] - edges[mel]) / length + 1e-12);
    }
  }
  return levels;
}

/** Returns the first bin of each band up to 8 kHz, equally wide on the mel scale, each at least one bin. */
function melEdges(rate, size) {
  const highest = 2595 * Math.log10(1 + Math.min(8000, rate / 2) / 700);
  const edges = Array.from({ length: MELS + 1 }, (_, i) => {
    const hz = 700 * (10 ** ((highest * i) / MELS / 2595) - 1);
    return Math.round((hz / rate) * size);
  });
  for (let i = 1; i <= MELS; i++) edges[i] = Math.max(edges[i], edges[i - 1] + 1);
  return edges;
}

/** The Fourier transform in place (radix 2, after Cooley and Tukey). @param {Float32Array} real @param {Float32Array} imaginary */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let span = 2; span <= size; span *= 2) {
    const angle = (-2 * Math.PI) / span;
    for (let k = 0; k < span / 2; k++) {
      const [c, s] = [Math.cos(angle * k), Math.sin(angle * k)];
      for (let low = k; low < size; low += span) {
        const high = low + span / 2;
        const re = real[high] * c - imaginary[high] * s;
        const im = real[high] * s + imaginary[high] * c;
        real[high] = real[low] - re;
        imaginary[high] = imaginary[low] - im;
        real[low] += re;
        imaginary[low] += im;
      }
    }
  }
}

/** Returns [red, green, blue] of a colour written #rrggbb. @param {string} hex */
function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** Returns 256 colours between the given ones, opaque. @param {number[][]} stops */
function ramped(stops) {
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (stops.length - 1);
    const first = Math.min(stops.length - 2, Math.floor(place));
    return [...stops[first].map((from, c) => from + (stops[first + 1][c] - from) * (place - first)), 255];
  });
}
