import { fixed } from "../text/show";

const WIDE = 320;
const TALL = 130;
const LEFT = 44;
const EDGE = 16;

/** Values by layer, from 0 on, with one of them marked. */
export function Curve({ values, at, label }: { values: number[]; at: number; label: string }) {
  const most = Math.max(...values, 1e-9);
  const x = (layer: number) => LEFT + ((WIDE - LEFT - EDGE) * layer) / Math.max(1, values.length - 1);
  const y = (value: number) => TALL - EDGE - (TALL - 2 * EDGE) * (value / most);
  const line = values.map((value, layer) => `${x(layer)},${y(value)}`).join(" ");
  const told = values.map((value, layer) => `layer ${layer}: ${fixed(value, 3)}`).join(", ");
  return (
    <svg class="curve" viewBox={`0 0 ${WIDE} ${TALL}`} role="img" aria-label={`${label}. ${told}`}>
      <line class="axis" x1={LEFT} y1={y(0)} x2={WIDE - EDGE} y2={y(0)} />
      <text x={LEFT - 6} y={y(0) + 4} text-anchor="end">
        0
      </text>
      {most > 1e-6 && (
        <text x={LEFT - 6} y={y(most) + 4} text-anchor="end">
          {fixed(most, 2)}
        </text>
      )}
      <text x={x(0)} y={TALL - 1}>
        0
      </text>
      <text x={x(values.length - 1)} y={TALL - 1} text-anchor="end">
        layer {values.length - 1}
      </text>
      <polyline class="curve-line" points={line} />
      <circle class="curve-point" cx={x(at)} cy={y(values[at] ?? 0)} r={4.5} />
    </svg>
  );
}
