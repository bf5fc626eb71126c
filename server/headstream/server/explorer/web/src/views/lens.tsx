import { useRef, useState } from "preact/hooks";
import type { Model } from "../api/messages";
import { whyNot } from "../api/models";
import { logitLens, type Candidate, type Lens as Rows, type Token } from "../api/readings";
import { Bars } from "../parts/bars";
import { Panel, Shown } from "../parts/panel";
import { step } from "../parts/roving";
import { percent, showSurface } from "../text/show";
import { windowAround } from "../text/window";
import { keyOf, useReply } from "../useReply";
import { useSurfaces } from "../useSurfaces";

const MOST_COLUMNS = 16;
const TOP = 5;

interface Props {
  model: Model;
  text: string;
  tokens: Token[];
  position: number;
  onChoose: (position: number) => void;
}

/** What each layer would predict if the model ended there. */
export function Lens({ model, text, tokens, position, onChoose }: Props) {
  const unavailable = whyNot(model, "InternalsService/LogitLens");
  // Moved in halves, so that a step to the next token mostly asks nothing.
  const center = Math.round(position / (MOST_COLUMNS / 2)) * (MOST_COLUMNS / 2);
  const { start, end } = windowAround(Math.min(center, tokens.length - 1), tokens.length, MOST_COLUMNS);
  const key = tokens.length && !unavailable ? keyOf(model.name, text, start, end) : null;
  const reply = useReply(key, async (signal) => {
    const rows = await logitLens(model.name, text, start, end, TOP, signal);
    return { rows, tokens }; // an older table is shown with its own tokens
  });
  return (
    <Panel
      id="lens"
      title="What each layer would say"
      about="The logit lens: the final norm and the unembedding applied to every layer's row. Arrow keys walk the table."
      unavailable={unavailable}
    >
      <Shown reply={reply} empty="Read a text first.">
        {(found) => <Table {...found} {...{ model, position, onChoose }} />}
      </Shown>
    </Panel>
  );
}

interface TableProps extends Omit<Props, "text"> {
  rows: Rows;
}

function Table({ model, rows, tokens, position, onChoose }: TableProps) {
  const layers = [...rows.keys()].sort((a, b) => a - b);
  const columns = [...(rows.get(layers[0] ?? 0)?.keys() ?? [])].sort((a, b) => a - b);
  const [chosenLayer, setLayer] = useState(layers.length - 1);
  const layerAt = Math.min(chosenLayer, layers.length - 1);
  const table = useRef<HTMLTableElement>(null);
  const all = [...rows.values()].flatMap((row) => [...row.values()]);
  const textOf = useSurfaces(model, all.flatMap((cell) => cell.map(({ id }) => id)));
  const at = (layer: number, column: number): Candidate[] =>
    rows.get(layers[layer]!)?.get(columns[column]!) ?? [];
  const columnAt = columns.indexOf(position);

  const onKeyDown = (event: KeyboardEvent) => {
    const cell = layerAt * columns.length + columnAt;
    const next = step(event.key, cell, layers.length * columns.length, columns.length);
    if (next === null) return;
    event.preventDefault();
    setLayer(Math.floor(next / columns.length));
    onChoose(columns[next % columns.length]!);
    setTimeout(() => table.current?.querySelector<HTMLElement>("[tabindex='0']")?.focus());
  };

  return (
    <>
      <div class="scroll">
        <table
          class="lens"
          role="grid"
          aria-label="Logit lens"
          style={{ "--columns": `${columns.length}` }}
          ref={table}
          onKeyDown={onKeyDown}
        >
          <thead>
            <tr>
              <th scope="col">layer</th>
              {columns.map((column) => (
                <th key={column} scope="col" class={column === position ? "chosen" : ""}>
                  {showSurface(tokens[column]?.surface ?? new Uint8Array())}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {layers.map((layer, row) => (
              <tr key={layer}>
                <th scope="row">{layer}</th>
                {columns.map((column, i) => {
                  const [top] = at(row, i);
                  const isChosen = row === layerAt && i === columnAt;
                  const text = top ? textOf(top.id) : "";
                  const share = top ? Math.exp(top.logprob) : 0;
                  return (
                    <td
                      key={column}
                      role="gridcell"
                      class={column === position ? "cell chosen" : "cell"}
                      aria-selected={isChosen}
                      aria-label={`layer ${layer}, position ${column}: ${text}, ${percent(share)}`}
                      tabIndex={isChosen ? 0 : -1}
                      style={{ "--strength": `${share}` }}
                      onClick={() => {
                        setLayer(row);
                        onChoose(column);
                      }}
                    >
                      {text}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {columnAt >= 0 && (
        <div class="lens-cell">
          <p class="hint">
            Behind position {position}, after layer {layers[layerAt]}:
          </p>
          <Bars
            label={`Likeliest tokens of layer ${layers[layerAt]} behind position ${position}`}
            bars={at(layerAt, columnAt).map(({ id, logprob }) => ({
              key: id,
              text: textOf(id),
              note: `${id}`,
              share: Math.exp(logprob),
            }))}
          />
        </div>
      )}
    </>
  );
}
