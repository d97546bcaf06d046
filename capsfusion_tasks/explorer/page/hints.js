// Explains why a search found nothing, and offers other words to search for.
import { el } from "./dom.js";

export function hinted(hint, filter, change) {
  if (!hint) return [];
  const lines = [];
  if (hint.ignored.length)
    lines.push(el("p", {}, `The search ignores common words: ${hint.ignored.join(", ")}. Search for other words.`));
  for (const [part, words] of Object.entries(hint.longer)) {
    const instead = (word) => change({ words: filter.words.replace(new RegExp(`(?<![\\p{L}\\p{N}])${part}(?![\\p{L}\\p{N}])`, "iu"), word) });
    const buttons = words.map((word) => el("button", { type: "button", onclick: () => instead(word) }, word));
    lines.push(el("p", { class: "actions" }, `The search finds whole words only. These words begin with ${part}:`, buttons));
  }
  return lines;
}
