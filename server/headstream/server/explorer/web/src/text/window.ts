// A stretch of a long text, around the chosen position: what one picture can hold.

export interface Window {
  start: number;
  /** Behind the last. */
  end: number;
}

export function windowAround(position: number, length: number, size: number): Window {
  const start = Math.max(0, Math.min(position - Math.floor(size / 2), length - size));
  return { start, end: Math.min(length, start + size) };
}

export const positionsOf = ({ start, end }: Window): number[] =>
  Array.from({ length: end - start }, (_, i) => start + i);
