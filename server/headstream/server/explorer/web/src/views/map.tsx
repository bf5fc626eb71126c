import { useState } from "preact/hooks";
import type { Model } from "../api/messages";
import { whyNot } from "../api/models";
import { contextual, staticVectors, type Contextual } from "../api/readings";
import { cosineDistance } from "../math/vectors";
import { Choice, Line, Slider } from "../parts/fields";
import { Panel, Shown } from "../parts/panel";
import { fixed, showSurface } from "../text/show";
import { keyOf, useReply } from "../useReply";
import { Curve } from "./curve";
import { Scatter, type Mark } from "./scatter";

const EXAMPLES = {
  chicken: [
    "The chicken didn't cross the road because it was too tired",
    "The chicken didn't cross the road because it was too wide",
  ],
  before: [
    "Because the chicken was too tired, it didn't cross the road",
    "Because the road was too wide, it kept the chicken at home",
  ],
} as const;

interface Vectors {
  texts: Contextual[];
  /** Row of the embedding matrix by token id. */
  rows: Map<number, Float32Array>;
}

/** Tokens of two sentences where the model puts them, beside where its embedding matrix has them. */
export function VectorMap({ model }: { model: Model }) {
  const layers = model.sizes?.layers ?? 1;
  const [example, setExample] = useState<keyof typeof EXAMPLES>("chicken");
  const [texts, setTexts] = useState<readonly [string, string]>(EXAMPLES.chicken);
  const [word, setWord] = useState("it");
  const [layer, setLayer] = useState(Math.ceil(layers / 2));
  const unavailable = whyNot(model, "EmbeddingsService/EmbedTokens");
  const key = unavailable ? null : keyOf(model.name, texts);
  const reply = useReply(key, (signal) => read(model.name, texts, layers, signal));
  const choose = (name: keyof typeof EXAMPLES) => {
    setExample(name);
    setTexts(EXAMPLES[name]);
  };
  return (
    <Panel
      id="map"
      title="Words in context"
      about="Every token of two sentences on the two principal axes of their directions, seen from the middle; hollow marks are the rows of the embedding matrix, which know no context, seen from theirs."
      unavailable={unavailable}
      controls={
        <>
          <Choice
            label="Example"
            value={example}
            options={[
              ["chicken", "the chicken: what follows differs"],
              ["before", "the chicken: what precedes differs"],
            ]}
            onChange={choose}
          />
          <Line label="Sentence A" value={texts[0]} onChange={(text) => setTexts([text, texts[1]])} />
          <Line label="Sentence B" value={texts[1]} onChange={(text) => setTexts([texts[0], text])} />
          <Line label="Word" short value={word} onChange={setWord} />
          <Slider label="Layer" value={layer} min={0} max={layers} onChange={setLayer} />
        </>
      }
    >
      <Shown reply={reply} empty="Give two sentences.">
        {(vectors) => (
          <div class="pair map-pair">
            <Scatter marks={marksOf(vectors, layer, word)} />
            <Distances vectors={vectors} word={word} layer={layer} model={model} />
          </div>
        )}
      </Shown>
    </Panel>
  );
}

async function read(
  model: string,
  texts: readonly string[],
  layers: number,
  signal: AbortSignal,
): Promise<Vectors> {
  const found = await Promise.all(texts.map((text) => contextual(model, text, layers, signal)));
  const ids = [...new Set(found.flatMap(({ tokens }) => tokens.map(({ id }) => id)))];
  const rows = await staticVectors(model, ids, signal);
  return { texts: found, rows: new Map(ids.map((id, i) => [id, rows[i]!])) };
}

/** Where a word first is a whole token of a text. */
function find(text: Contextual, word: string): number {
  return text.tokens.findIndex(
    ({ surface }) => new TextDecoder().decode(surface).trim().toLowerCase() === word.trim().toLowerCase(),
  );
}

function marksOf({ texts, rows }: Vectors, layer: number, word: string): Mark[] {
  return texts.flatMap((text, side) => {
    const chosen = find(text, word);
    return text.tokens.flatMap(({ id, surface, special }, i): Mark[] =>
      special
        ? [] // a mark such as <bos> lies far from all words and would squeeze them together
        : [
            {
              text: showSurface(surface),
              side,
              chosen: i === chosen,
              vector: text.layers[layer]![i]!,
              still: rows.get(id)!,
            },
          ],
    );
  });
}

function Distances({ vectors, word, layer, model }: {
  vectors: Vectors;
  word: string;
  layer: number;
  model: Model;
}) {
  const [a, b] = [vectors.texts[0]!, vectors.texts[1]!];
  const [i, j] = [find(a, word), find(b, word)];
  if (i < 0 || j < 0)
    return <p class="notice">“{word}” is not a token of both sentences.</p>;
  const values = a.layers.map((rows, l) => cosineDistance(rows[i]!, b.layers[l]![j]!));
  const same = Math.max(...values) < 1e-6;
  return (
    <div>
      <p class="hint">
        Cosine distance between the two “{word}”, by layer. At layer {layer}:{" "}
        <strong id="distance">{fixed(values[layer]!, 4)}</strong>
      </p>
      <Curve values={values} at={layer} label={`Distance of the two “${word}” by layer`} />
      {same && !model.bidirectional && (
        <p class="hint">
          This model reads from left to right, and both sentences are the same up to “{word}”: it
          cannot know yet what follows. Try the other example, or an encoder.
        </p>
      )}
    </div>
  );
}
