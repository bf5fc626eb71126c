import { project, type Point } from "../math/pca";
import { toUnit } from "../math/vectors";

const WIDE = 560;
const TALL = 380;
const EDGE = 34;

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
  const units = [...marks.map(({ vector }) => vector), ...marks.map(({ still }) => still)];
  const { points, shares } = project(units.map(toUnit));
  const place = fit(points);
  const at = (i: number) => place(points[i]!);
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
          const size = chosen ? 6.5 : 4.5;
          const name = `mark side-${side}${chosen ? " chosen" : ""}`;
          return (
            <g key={i} class={name}>
              {side === 0 ? (
                <circle cx={x} cy={y} r={size} />
              ) : (
                <rect x={x - size} y={y - size} width={2 * size} height={2 * size} />
              )}
              <text x={x > WIDE - 80 ? x - 9 : x + 9} y={y + 4} text-anchor={x > WIDE - 80 ? "end" : "start"}>
                {text.replace(/^·/, "")}
              </text>
            </g>
          );
        })}
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

/** From the plane to the picture. */
function fit(points: Point[]): (point: Point) => Point {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scaleX = (WIDE - 2 * EDGE) / (right - left || 1);
  const scaleY = (TALL - 2 * EDGE) / (high - low || 1);
  return ([x, y]) => [EDGE + (x - left) * scaleX, TALL - EDGE - (y - low) * scaleY];
}
