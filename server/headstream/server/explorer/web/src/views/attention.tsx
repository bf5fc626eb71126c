import { useState } from "preact/hooks";
import type { Model } from "../api/messages";
import { whyNot } from "../api/models";
import { attention, type Pattern, type Token } from "../api/readings";
import { Bars } from "../parts/bars";
import { Choice, Slider } from "../parts/fields";
import { Panel, Shown } from "../parts/panel";
import { showSurface } from "../text/show";
import { positionsOf, windowAround, type Window } from "../text/window";
import { keyOf, useReply } from "../useReply";
import { Arcs } from "./arcs";
import { HeatMap } from "./heatmap";

const MOST_TOKENS = 32; // of one picture
const TOP = 6;

interface Props {
  model: Model;
  text: string;
  tokens: Token[];
  position: number;
  onChoose: (position: number) => void;
}

/** Where a position looks, in one head or on average. */
export function Attention({ model, text, tokens, position, onChoose }: Props) {
  const layers = model.sizes?.layers ?? 1;
  const heads = model.sizes?.heads ?? 1;
  const [layer, setLayer] = useState(Math.ceil(layers / 2));
  const [head, setHead] = useState("mean");
  const unavailable = whyNot(model, "InternalsService/Attention");
  const view = windowAround(position, tokens.length, MOST_TOKENS);
  const key = keyOf(model.name, text, layer, head, view);
  const reply = useReply(tokens.length && !unavailable ? key : null, async (signal) => {
    const one = head === "mean" ? null : Number(head);
    const pattern = await attention(model.name, text, layer, one, positionsOf(view), signal);
    return { pattern, tokens }; // an older pattern is shown with its own tokens
  });
  const headNames = Array.from({ length: heads }, (_, i) => [`${i}`, `head ${i}`] as const);
  return (
    <Panel
      id="attention"
      title="Where it looks"
      about="Attention from the chosen token to the others, and the whole pattern as a map."
      unavailable={unavailable}
      controls={
        <>
          <Slider label="Layer" value={layer} min={1} max={layers} onChange={setLayer} />
          <Choice
            label="Head"
            value={head}
            options={[["mean", "mean of all"], ...headNames]}
            onChange={setHead}
          />
        </>
      }
    >
      <Shown reply={reply} empty="Read a text first.">
        {({ pattern, tokens }) => {
          const row = pattern.rows[pattern.queries.indexOf(position)];
          const view = viewOf(pattern);
          return (
            <>
              {row && <Arcs tokens={tokens} row={row} query={position} view={view} onChoose={onChoose} />}
              <div class="pair">
                {row && <Bars label={`Keys that position ${position} looks at most`} bars={topKeys(row, tokens)} />}
                <HeatMap pattern={pattern} view={view} query={position} tokens={tokens} onChoose={onChoose} />
              </div>
            </>
          );
        }}
      </Shown>
    </Panel>
  );
}

/** The stretch that a pattern was asked for. */
function viewOf({ queries }: Pattern): Window {
  return { start: Math.min(...queries), end: Math.max(...queries) + 1 };
}

function topKeys(row: Float32Array, tokens: Token[]) {
  return Array.from(row, (share, key) => ({ key, share }))
    .sort((a, b) => b.share - a.share)
    .slice(0, TOP)
    .filter(({ share }) => share > 0)
    .map(({ key, share }) => ({
      key,
      share,
      text: tokens[key] ? showSurface(tokens[key].surface) : "",
      note: `at ${key}`,
    }));
}
