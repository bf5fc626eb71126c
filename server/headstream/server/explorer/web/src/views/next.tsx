import type { Model } from "../api/messages";
import { whyNot } from "../api/models";
import { nextTokens, type Scoring } from "../api/readings";
import { Bars } from "../parts/bars";
import { Panel, Shown } from "../parts/panel";
import { keyOf, useReply, type Reply } from "../useReply";
import { useSurfaces } from "../useSurfaces";

export const TOP = 10;

interface Props {
  model: Model;
  text: string;
  position: number;
  length: number;
  scoring: Reply<Scoring>;
}

/** The likeliest tokens behind the chosen position. */
export function Next({ model, text, position, length, scoring }: Props) {
  // A scoring has the rows that scored tokens: all but the one behind the last token.
  const isLast = length > 0 && position === length - 1;
  const unavailable = whyNot(model, "LogitsService/Generate");
  const last = useReply(isLast && !unavailable ? keyOf(model.name, text) : null, (signal) =>
    nextTokens(model.name, text, TOP, signal),
  );
  const scored = scoring.value?.next[position] ?? null;
  const reply = isLast ? last : { ...scoring, value: scored };
  const textOf = useSurfaces(model, reply.value?.map(({ id }) => id) ?? []);
  return (
    <Panel
      id="next"
      title="What comes next"
      about={`The ${TOP} likeliest tokens behind the chosen position, before any temperature.`}
      unavailable={unavailable}
    >
      <Shown reply={reply} empty="Choose a token.">
        {(candidates) => (
          <Bars
            label={`Likeliest tokens behind position ${position}`}
            bars={candidates.map(({ id, logprob }) => ({
              key: id,
              text: textOf(id),
              note: `${id}`,
              share: Math.exp(logprob),
            }))}
          />
        )}
      </Shown>
    </Panel>
  );
}
