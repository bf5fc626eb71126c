// How tokens and numbers are written.

const SIGNS: Record<string, string> = { " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍" };

/** A token's bytes as text: white space as signs, parts of characters as bytes. */
export function showSurface(bytes: Uint8Array): string {
  if (bytes.length === 0) return "∅";
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
  return text.replace(/[ \n\t\r]/g, (sign) => SIGNS[sign]!);
}

export const minus = (text: string): string => text.replace("-", "−");
export const fixed = (value: number, digits: number): string => minus(value.toFixed(digits));
export const count = (value: number): string => value.toLocaleString("en");

/** A probability: 12.3 %, and what rounds to nothing as such. */
export function percent(probability: number): string {
  const value = probability * 100;
  return value > 0 && value < 0.05 ? "< 0.1 %" : `${value.toFixed(1)} %`;
}
