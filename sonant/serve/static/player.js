/** Plays one sound at a time: a clip from any place, or an answer while it is still being said. */

const HEAD_START_S = 0.06; // between the first piece and its sound, so that the second is there in time

/** @typedef {{from?: number, onProgress?: (seconds: number) => void, onEnd?: () => void}} Told */

export class Player {
  constructor() {
    /** @type {AudioContext | null} */
    this.context = null;
    this.now = null; // what is playing
  }

  /** Call it where the reader did something: browsers allow sound only then. */
  wake() {
    this.context ??= new AudioContext();
    if (this.context.state === "suspended") this.context.resume();
  }

  stop() {
    const { now } = this;
    this.now = null;
    if (!now) return;
    cancelAnimationFrame(now.frame);
    now.sources.forEach((source) => source.stop());
    now.onEnd();
  }

  /**
   * Plays a clip.
   * @param {import("./types.js").Sound} sound
   * @param {Told} [options]
   */
  play(sound, { from = 0, ...told } = {}) {
    const first = Math.min(sound.samples.length - 1, Math.round(from * sound.rate));
    const stream = this.stream(sound.rate, { ...told, from });
    stream.push(sound.samples.subarray(first));
    stream.end();
  }

  /**
   * Returns what plays pieces one behind the other, as they come.
   * @param {number} rate
   * @param {Told} [options]
   */
  stream(rate, { from = 0, onProgress = () => {}, onEnd = () => {} } = {}) {
    this.wake();
    this.stop();
    const context = this.context;
    const now = { sources: new Set(), frame: 0, onEnd, next: 0, ended: false, pieces: [] };
    this.now = now;
    const endIfDone = () => {
      if (this.now === now && now.ended && !now.sources.size) this.stop();
    };
    const tick = () => {
      const at = now.pieces.findLast((piece) => piece.starts <= context.currentTime);
      if (at) onProgress(at.offset + Math.min(at.seconds, context.currentTime - at.starts));
      now.frame = requestAnimationFrame(tick);
    };
    tick();
    let offset = from;
    return {
      /** @param {Int16Array} samples */
      push: (samples) => {
        if (this.now !== now || !samples.length) return;
        const buffer = context.createBuffer(1, samples.length, rate);
        buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
        const source = new AudioBufferSourceNode(context, { buffer });
        source.connect(context.destination);
        const starts = now.next > context.currentTime ? now.next : context.currentTime + HEAD_START_S;
        source.onended = () => {
          now.sources.delete(source);
          endIfDone();
        };
        now.sources.add(source);
        source.start(starts);
        now.pieces.push({ starts, offset, seconds: buffer.duration });
        now.next = starts + buffer.duration;
        offset += buffer.duration;
      },
      end: () => {
        now.ended = true;
        endIfDone();
      },
    };
  }
}
