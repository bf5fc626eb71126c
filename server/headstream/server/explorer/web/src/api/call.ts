// One call through the bridge: JSON out, lines of JSON back.

/** A failure in the server's own words. */
export class ServerError extends Error {
  constructor(
    message: string,
    readonly code: number,
    readonly reason: string,
  ) {
    super(message);
  }
}

interface Failure {
  error: { code: number; message: string; details?: { reason?: string }[] };
}

/** The replies of a method such as `LogitsService/Score`, as they come. Leaving the loop cancels. */
export async function* call<Reply extends object>(
  method: string,
  request: object,
  signal: AbortSignal,
): AsyncGenerator<Reply> {
  const response = await fetch(`api/headstream.v1.${method}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  for await (const line of lines(response.body!)) {
    const reply = JSON.parse(line) as Reply | Failure;
    if ("error" in reply) throw toError(reply);
    yield reply;
  }
}

/** The one reply of a method without a stream. */
export async function ask<Reply extends object>(
  method: string,
  request: object,
  signal: AbortSignal,
): Promise<Reply> {
  for await (const reply of call<Reply>(method, request, signal)) return reply;
  throw new Error("the server ended the call without an answer");
}

/** What a person is told of a failure. */
export function wordsOf(error: unknown): string {
  if (error instanceof ServerError) return error.message;
  if (error instanceof TypeError) return "The server cannot be reached.";
  return String(error instanceof Error ? error.message : error);
}

/** The lines of a body, without their ends. */
export async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let parts: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const [first, ...more] = decoder.decode(value, { stream: true }).split("\n");
      parts.push(first!);
      for (const next of more) {
        yield parts.join("");
        parts = [next];
      }
    }
    const last = parts.join("");
    if (last) yield last;
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function toError({ error }: Failure): ServerError {
  const reason = error.details?.find((detail) => detail.reason)?.reason ?? "";
  return new ServerError(error.message, error.code, reason);
}
