/** What a conversation is called. */

const TITLE_LENGTH = 48;

/** Names a conversation after its first words. @param {import("./types.js").Conversation} conversation */
export function entitle(conversation) {
  if (conversation.named) return;
  const parts = conversation.messages.filter(({ role }) => role === "user").flatMap((message) => message.parts);
  const words = parts.map((part) => (part.type === "text" ? part.text : (part.transcript ?? part.heard ?? ""))).join(" ").trim();
  const letters = [...words]; // whole ones: an emoji is two of a string's
  const title = letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH).join("").trimEnd()}…` : words;
  const names = parts.map((part) => (part.type === "audio" ? part.name : undefined));
  conversation.title = title || names.find(Boolean) || "Spoken question";
}
