import { useState } from "preact/hooks";
import type { Model } from "../api/messages";
import { whyNot } from "../api/models";
import { continueText, residual } from "../api/readings";
import { toBase64 } from "../api/tensor";
import { difference, mean, norm } from "../math/vectors";
import { Line, Slider } from "../parts/fields";
import { Panel, Shown } from "../parts/panel";
import { fixed } from "../text/show";
import { keyOf, useReply, type Reply } from "../useReply";

const NEW_TOKENS = 40;
const STRONGEST = 3;

interface Direction {
  vector: Float32Array;
  /** Mean length of a row at that layer. */
  usual: number;
}

/** A vector between two texts, added at a layer while the model writes. */
export function Steer({ model }: { model: Model }) {
  const layers = model.sizes?.layers ?? 1;
  const [prompt, setPrompt] = useState("I went to the restaurant yesterday and the food was");
  const [toward, setToward] = useState("wonderful, delicious, I love it, the best ever");
  const [away, setAway] = useState("terrible, disgusting, I hate it, the worst ever");
  const [layer, setLayer] = useState(Math.max(1, Math.round(layers / 2)));
  const [strength, setStrength] = useState(1);
  const unavailable = whyNot(model, "LogitsService/Generate") ?? whyNot(model, "InternalsService/Trace");

  const contrast = keyOf(model.name, toward, away, layer);
  const direction = useReply(unavailable ? null : contrast, async (signal): Promise<Direction> => {
    const [a, b] = await Promise.all(
      [toward, away].map((text) => residual(model.name, text, layer, signal)),
    );
    const rows = [...a!, ...b!];
    const usual = rows.reduce((sum, row) => sum + norm(row), 0) / rows.length;
    return { vector: difference(mean(a!), mean(b!)), usual };
  });
  const request = {
    model: model.name,
    prompt: { text: prompt },
    stop: { maxNewTokens: Math.min(NEW_TOKENS, model.limits?.maxNewTokens ?? NEW_TOKENS) },
    sampling: { repetitionPenalty: 1.3 },
  };
  const plain = useReply<string>(unavailable ? null : keyOf(request), (signal, show) =>
    gather(request, signal, show),
  );
  const ready = !unavailable && !direction.busy && direction.value;
  const steered = useReply<string>(ready ? keyOf(request, contrast, strength) : null, (signal, show) => {
    const add = { vector: toBase64(direction.value!.vector), factor: strength };
    const interventions = [{ site: "resid_post", layers: [layer], add }];
    return gather({ ...request, interventions }, signal, show);
  });
  const told = direction.error === null ? steered : { ...steered, value: null, error: direction.error };

  return (
    <Panel
      id="steer"
      title="Steer"
      about="The mean residual stream of one text less that of another, times the strength, is added behind a layer while the model writes. Neighbours are not touched."
      unavailable={unavailable}
      controls={
        <>
          <Line label="Prompt" value={prompt} onChange={setPrompt} />
          <Line label="Toward" value={toward} onChange={setToward} />
          <Line label="Away from" value={away} onChange={setAway} />
          <Slider label="Layer" value={layer} min={1} max={layers} onChange={setLayer} />
          <Slider
            label="Strength"
            value={strength}
            min={-STRONGEST}
            max={STRONGEST}
            step={0.25}
            show={(value) => fixed(value, 2)}
            onChange={setStrength}
          />
        </>
      }
    >
      <div class="pair">
        <Text title="Unsteered" id="plain" prompt={prompt} reply={plain} />
        <Text title={`Steered, ${fixed(strength, 2)}`} id="steered" prompt={prompt} reply={told} />
      </div>
      {direction.value && (
        <p class="hint">
          The vector has length {fixed(norm(direction.value.vector), 1)}; rows at layer {layer} have{" "}
          {fixed(direction.value.usual, 1)} on average.
        </p>
      )}
    </Panel>
  );
}

async function gather(
  request: object,
  signal: AbortSignal,
  show: (text: string) => void,
): Promise<string> {
  let text = "";
  for await (text of continueText(request, signal)) show(text);
  return text;
}

function Text({ title, id, prompt, reply }: {
  title: string;
  id: string;
  prompt: string;
  reply: Reply<string>;
}) {
  return (
    <div class="continuation">
      <h3>{title}</h3>
      <Shown reply={reply} empty="Waiting for the vector.">
        {(text) => (
          <p>
            <span class="prompt">{prompt}</span>
            <span id={id}>{text}</span>
          </p>
        )}
      </Shown>
    </div>
  );
}
