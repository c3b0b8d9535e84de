/** When somebody begins to speak and stops: loudness above a floor that follows the room. */

const ABOVE_FLOOR_DB = 12; // louder than the room by so much is speech
const STILL_DB = 7; // ... and stays it while louder by so much
const LOWEST_DB = -62; // a floor below this is a microphone's own silence
const BEGIN_S = 0.12; // of speech, to begin
export const END_S = 0.6; // of quiet, to end
const FALL_DB_S = 60; // how fast the floor follows a room that got quieter
const RISE_DB_S = 4; // ... or louder

export class VoiceActivity {
  constructor() {
    this.floor = -50;
    this.speaking = false;
    this.since = 0; // seconds that speak against the present state
  }

  /**
   * Returns "started" or "stopped" where that changes with this block, else null.
   * @param {Float32Array} block
   * @param {number} rate
   * @returns {"started" | "stopped" | null}
   */
  push(block, rate) {
    const seconds = block.length / rate;
    const level = loudness(block);
    const change = level - this.floor;
    const isSpeech = change > (this.speaking ? STILL_DB : ABOVE_FLOOR_DB);
    // While somebody speaks the floor hardly moves: long sentences are no room.
    const rise = RISE_DB_S * (isSpeech ? 0.25 : 1);
    this.floor = Math.max(LOWEST_DB, this.floor + Math.max(-FALL_DB_S * seconds, Math.min(rise * seconds, change)));
    this.since = isSpeech === this.speaking ? 0 : this.since + seconds;
    if (this.since < (this.speaking ? END_S : BEGIN_S)) return null;
    this.speaking = !this.speaking;
    this.since = 0;
    return this.speaking ? "started" : "stopped";
  }
}

/** Returns the loudness of samples, dB below full scale. @param {Float32Array} block */
export function loudness(block) {
  let sum = 0;
  for (const sample of block) sum += sample * sample;
  return 10 * Math.log10(sum / block.length + 1e-10);
}
