// Names beside marks, put where no other name and no mark stands.

import type { Point } from "../math/pca";

export interface Label {
  x: number;
  y: number;
  anchor: "start" | "end" | "middle";
}

interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const LETTER = 7; // pixels of one, about
const TALL = 12;
const GAP = 9;
const MARK = 6; // half of one

/**
 * A place for the name of each mark inside the width: right, left, below or above it. Where none is
 * free a mark has no name, but the chosen ones, which come first, always have.
 */
export function placeLabels(
  marks: { text: string; at: Point; chosen: boolean }[],
  width: number,
): (Label | null)[] {
  const taken = marks.map(({ at: [x, y] }): Box => {
    return { left: x - MARK, right: x + MARK, top: y - MARK, bottom: y + MARK };
  });
  const place = ({ text, at: [x, y], chosen }: (typeof marks)[number]): Label | null => {
    const length = text.length * LETTER;
    const places: Label[] = [
      { x: x + GAP, y: y + 4, anchor: "start" },
      { x: x - GAP, y: y + 4, anchor: "end" },
      { x, y: y + GAP + 8, anchor: "middle" },
      { x, y: y - GAP, anchor: "middle" },
      { x: x + GAP, y: y + GAP + 8, anchor: "start" },
      { x: x - GAP, y: y - GAP, anchor: "end" },
    ];
    const inside = places.filter((place) => {
      const { left, right } = boxOf(place, length);
      return left >= 0 && right <= width;
    });
    const free = inside.find((place) => !taken.some((box) => meet(box, boxOf(place, length))));
    const found = free ?? (chosen ? (inside[0] ?? places[0]!) : null);
    if (found) taken.push(boxOf(found, length));
    return found;
  };
  const labels = new Map<(typeof marks)[number], Label | null>();
  for (const mark of [...marks].sort((a, b) => Number(b.chosen) - Number(a.chosen)))
    labels.set(mark, place(mark));
  return marks.map((mark) => labels.get(mark) ?? null);
}

function boxOf({ x, y, anchor }: Label, length: number): Box {
  const left = anchor === "start" ? x : anchor === "end" ? x - length : x - length / 2;
  return { left, right: left + length, top: y - TALL, bottom: y };
}

const meet = (a: Box, b: Box): boolean =>
  a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
