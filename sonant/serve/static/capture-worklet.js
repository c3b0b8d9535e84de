/** Runs on the audio thread: hands the microphone's samples over, 32 ms at a time at 16 kHz. */

const BLOCK = 512;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }

  /** @param {Float32Array[][]} inputs  128 frames of each channel */
  process([channels]) {
    const count = channels.length;
    for (let i = 0; count && i < channels[0].length; i++) {
      let sum = 0;
      for (let channel = 0; channel < count; channel++) sum += channels[channel][i];
      this.block[this.filled++] = sum / count;
      if (this.filled === BLOCK) {
        this.port.postMessage(this.block, [this.block.buffer]);
        this.block = new Float32Array(BLOCK);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
