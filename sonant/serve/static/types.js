/**
 * The values that the page passes around; nothing but JSDoc.
 *
 * @typedef {{samples: Int16Array, rate: number}} Sound  mono PCM at `rate` Hz
 *
 * @typedef {{type: "text", text: string, extra?: Record<string, unknown>}} TextPart
 * @typedef {object} AudioPart
 * @property {"audio"} type
 * @property {Int16Array} samples
 * @property {number} rate             Hz
 * @property {string} [name]           of the file it came from
 * @property {string} [transcript]     what is said in it: the truth, as a manifest means it
 * @property {string} [heard]          what the model wrote down of it
 * @property {Record<string, unknown>} [extra]  keys of an imported manifest line
 * @typedef {TextPart | AudioPart} Part
 *
 * @typedef {object} Timings
 * @property {number} [firstWordMs]    from the end of the question to the first word on the screen
 * @property {number} [firstSoundMs]   ... to the first sound
 * @property {number} wholeMs          ... to the end of the answer
 * @property {number} [realTimeFactor] seconds of work for a second of speech: said, or else heard
 * @property {number} [tokens]         written
 *
 * @typedef {"stop" | "length" | "stopped"} Finish  "stopped" by the reader, before it was done
 *
 * @typedef {object} Message
 * @property {"system" | "user" | "assistant"} role
 * @property {Part[]} parts
 * @property {Timings} [timings]
 * @property {Finish} [finish]
 * @property {Record<string, unknown>} [extra]
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} named           whether the reader gave the title
 * @property {number} updatedAt        ms since 1970
 * @property {Message[]} messages
 * @property {Record<string, unknown>} [extra]
 *
 * @typedef {object} Settings
 * @property {string} key
 * @property {string} instructions     the system message of new conversations
 * @property {number | null} maxTokens  of an answer; null: as many as fit
 * @property {number} temperature
 * @property {boolean} speak           ask for spoken answers where the model has a voice
 * @property {boolean} transcripts     let the model write down what it is told
 * @property {"system" | "light" | "dark"} theme
 */

export {};
