// What the server serves, and why a view may have nothing to show.

import { ask } from "./call";
import type { Model } from "./messages";

export async function listModels(signal: AbortSignal): Promise<Model[]> {
  const reply = await ask<{ models: Model[] }>("ModelService/ListModels", {}, signal);
  return reply.models;
}

/** Why a model does not answer a method such as `InternalsService/Trace`; null where it does. */
export function whyNot(model: Model, method: string): string | null {
  if (model.state !== "MODEL_STATE_SERVING") {
    const loading = model.state === "MODEL_STATE_LOADING";
    return loading ? "The model is being loaded." : "The model's engine has ended.";
  }
  const found = model.capabilities.find((entry) => entry.method === `headstream.v1.${method}`);
  if (found?.served) return null;
  const needsLogits = method.startsWith("LogitsService/") || method.endsWith("/LogitLens");
  if (model.bidirectional && needsLogits)
    return `${model.name} is an encoder: it has no unembedding, so there are no logits.`;
  return `This server does not serve ${method} for ${model.name}.`;
}
