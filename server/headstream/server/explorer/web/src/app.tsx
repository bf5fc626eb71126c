import { useEffect, useState } from "preact/hooks";
import type { Model } from "./api/messages";
import { listModels, whyNot } from "./api/models";
import { score, tokenize } from "./api/readings";
import { Choice } from "./parts/fields";
import { Panel, Shown } from "./parts/panel";
import { count, fixed } from "./text/show";
import { keyOf, useReply } from "./useReply";
import { Attention } from "./views/attention";
import { Lens } from "./views/lens";
import { VectorMap } from "./views/map";
import { Next, TOP } from "./views/next";
import { Steer } from "./views/steer";
import { Chosen, Tokens, type Tint } from "./views/tokens";

const EXAMPLES = [
  "The chicken didn't cross the road because it was too tired",
  "So long and thanks for all the",
  "When Mary and John went to the store, John gave a drink to",
] as const;

/** The page: a model is chosen, and everything below is about that model. */
export function App() {
  const [round, setRound] = useState(0);
  const models = useReply(keyOf(round), listModels);
  const [name, setName] = useState("");
  const model = models.value?.find((entry) => entry.name === name) ?? models.value?.[0];
  const loading = model?.state === "MODEL_STATE_LOADING";
  useEffect(() => {
    if (!loading) return;
    const timer = setTimeout(() => setRound(round + 1), 1000);
    return () => clearTimeout(timer);
  }, [loading, round]);
  return (
    <>
      <header class="top">
        <h1>Headstream explorer</h1>
        {model && <About model={model} />}
        {models.value && models.value.length > 1 && (
          <Choice
            label="Model"
            value={model!.name}
            options={models.value.map((entry) => [entry.name, entry.name] as const)}
            onChange={setName}
          />
        )}
      </header>
      <main>
        <Shown reply={models} empty="No model is served.">
          {() => model && <Views key={`${model.name} ${model.state}`} model={model} />}
        </Shown>
      </main>
    </>
  );
}

function About({ model }: { model: Model }) {
  const { sizes, fingerprint } = model;
  const parts = [model.name, model.bidirectional ? "encoder" : "decoder"];
  if (sizes) parts.push(`${sizes.layers} layers of ${sizes.heads} heads, width ${count(sizes.dimensions)}`);
  if (fingerprint) parts.push(fingerprint.dtype);
  return <p class="model">{parts.join(" · ")}</p>;
}

function Views({ model }: { model: Model }) {
  const [text, setText] = useState<string>(EXAMPLES[0]);
  const [position, setPosition] = useState(0);
  const [tint, setTint] = useState<Tint>("logprob");
  const unavailable = whyNot(model, "TokenizerService/Tokenize");
  const tokens = useReply(text && !unavailable ? keyOf(model.name, text) : null, (signal) =>
    tokenize(model.name, text, signal),
  );
  const length = tokens.value?.length ?? 0;
  // One token alone has nothing to be scored by.
  const scored = length > 1 && !tokens.busy && !whyNot(model, "LogitsService/Score");
  const scoring = useReply(scored ? keyOf(model.name, text) : null, (signal) =>
    score(model.name, text, TOP, signal),
  );
  useEffect(() => setPosition(Math.max(0, length - 1)), [tokens.value]);
  const at = Math.min(position, Math.max(0, length - 1));
  // Views about positions see a text only once its tokens are there.
  const known = tokens.busy ? [] : (tokens.value ?? []);
  const shared = { model, text, tokens: known, position: at, onChoose: setPosition };
  return (
    <>
      <Panel
        id="read"
        title="Text"
        about="Every token with its id, tinted by how surprising the model found it. Choose one with a click or the arrow keys."
        unavailable={unavailable}
        controls={<Compose text={text} onRead={setText} />}
      >
        <Shown reply={tokens} empty="Type a text and read it.">
          {(found) => (
            <>
              <Tokens tokens={found} scoring={scoring.value} tint={tint} position={at} onChoose={setPosition} />
              <div class="below">
                {found[at] && (
                  <Chosen token={found[at]} position={at} scored={scoring.value?.tokens[at] ?? null} />
                )}
                <Choice
                  label="Tint"
                  value={tint}
                  options={[
                    ["logprob", "log-probability"],
                    ["rank", "rank"],
                    ["entropy", "entropy"],
                  ]}
                  onChange={setTint}
                />
              </div>
              <p class="hint" id="summary">
                {count(length)} tokens
                {scoring.value?.perplexity != null && `, perplexity ${fixed(scoring.value.perplexity, 2)}`}
                {scoring.busy && ", scoring …"}
                {!scored && length > 1 && !tokens.busy && `. ${whyNot(model, "LogitsService/Score")}`}
              </p>
              {scoring.error && (
                <p class="notice error" role="alert">
                  {scoring.error}
                </p>
              )}
            </>
          )}
        </Shown>
      </Panel>
      <div class="columns">
        <Next model={model} text={text} position={at} length={known.length} scoring={scoring} />
        <Attention {...shared} />
      </div>
      <Lens {...shared} />
      <VectorMap model={model} />
      <Steer model={model} />
    </>
  );
}

function Compose({ text, onRead }: { text: string; onRead: (text: string) => void }) {
  const [draft, setDraft] = useState(text);
  const read = (next: string) => {
    setDraft(next);
    onRead(next);
  };
  return (
    <form
      class="compose"
      onSubmit={(event) => {
        event.preventDefault();
        read(draft);
      }}
    >
      <label class="field wide">
        <span>Text to read</span>
        <textarea
          rows={2}
          value={draft}
          spellcheck={false}
          onInput={(event) => setDraft(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey) {
              event.preventDefault();
              read(draft);
            }
          }}
        />
      </label>
      <div class="actions">
        <button type="submit" class="primary">
          Read
        </button>
        {EXAMPLES.map((example) => (
          <button key={example} type="button" class="quiet" onClick={() => read(example)}>
            {example.split(" ").slice(0, 4).join(" ")} …
          </button>
        ))}
      </div>
    </form>
  );
}
