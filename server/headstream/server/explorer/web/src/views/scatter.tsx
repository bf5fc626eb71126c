import { project, type Point } from "../math/pca";
import { difference, mean, toUnit } from "../math/vectors";
import { placeLabels } from "./labels";

const WIDE = 560;
const TALL = 380;
const EDGE = 34;
const NEAR = 6; // pixels within which two marks share a name

export interface Mark {
  text: string;
  /** Which sentence: 0 or 1. */
  side: number;
  chosen: boolean;
  vector: Float32Array;
  /** The token's row of the embedding matrix. */
  still: Float32Array;
}

/** Tokens in the plane: where context puts them, joined to where they are without. */
export function Scatter({ marks }: { marks: Mark[] }) {
  const units = [
    ...directions(marks.map(({ vector }) => vector)),
    ...directions(marks.map(({ still }) => still)),
  ];
  const { points, shares } = project(units);
  const place = fit(points);
  const at = (i: number) => place(points[i]!);
  const named = marks
    .map(({ text, chosen }, i) => ({ text: text.replace(/^·/, ""), chosen, at: at(i) }))
    .filter((mark, i, all) => !all.slice(0, i).some((other) => isNamed(mark, other)));
  const labels = placeLabels(named, WIDE);
  return (
    <figure class="scatter">
      <svg
        viewBox={`0 0 ${WIDE} ${TALL}`}
        role="img"
        aria-label="Map of the tokens of both sentences; the distances are given beside it"
      >
        {marks.map(({ chosen, side }, i) => {
          const [from, to] = [at(marks.length + i), at(i)];
          return (
            <line
              key={i}
              class={`tie side-${side}${chosen ? " chosen" : ""}`}
              x1={from[0]}
              y1={from[1]}
              x2={to[0]}
              y2={to[1]}
            />
          );
        })}
        {marks.map(({ side }, i) => {
          const [x, y] = at(marks.length + i);
          return <circle key={i} class={`still side-${side}`} cx={x} cy={y} r={3} />;
        })}
        {marks.map(({ text, side, chosen }, i) => {
          const [x, y] = at(i);
          const size = (side === 0 ? 6 : 4) + (chosen ? 2 : 0);
          const name = `mark side-${side}${chosen ? " chosen" : ""}`;
          return side === 0 ? (
            <circle key={i} class={name} cx={x} cy={y} r={size}>
              <title>{text}</title>
            </circle>
          ) : (
            <rect key={i} class={name} x={x - size} y={y - size} width={2 * size} height={2 * size}>
              <title>{text}</title>
            </rect>
          );
        })}
        {labels.map(
          (label, i) =>
            label && (
              <text
                key={i}
                class={named[i]!.chosen ? "chosen" : ""}
                x={label.x}
                y={label.y}
                text-anchor={label.anchor}
              >
                {named[i]!.text}
              </text>
            ),
        )}
      </svg>
      <figcaption>
        <span class="key side-0">● sentence A</span> <span class="key side-1">■ sentence B</span>{" "}
        <span class="key">○ embedding matrix</span>
        <span>
          The axes hold {Math.round(shares[0] * 100)} % and {Math.round(shares[1] * 100)} % of the
          variance.
        </span>
      </figcaption>
    </figure>
  );
}

/** Whether another mark says the same in the same place: one name is enough for both. */
function isNamed(mark: { text: string; at: Point }, other: { text: string; at: Point }): boolean {
  const distance = Math.hypot(mark.at[0] - other.at[0], mark.at[1] - other.at[1]);
  return mark.text === other.text && distance < NEAR;
}

/** Rows seen from their middle, at length 1: what all have in common would hide how they differ. */
function directions(rows: Float32Array[]): Float64Array[] {
  const middle = mean(rows);
  return rows.map((row) => toUnit(difference(row, middle)));
}

/** From the plane to the picture. */
function fit(points: Point[]): (point: Point) => Point {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scaleX = (WIDE - 2 * EDGE) / (right - left || 1);
  const scaleY = (TALL - 2 * EDGE) / (high - low || 1);
  return ([x, y]) => [EDGE + (x - left) * scaleX, TALL - EDGE - (y - low) * scaleY];
}
