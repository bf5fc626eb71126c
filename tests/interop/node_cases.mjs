// The cases with @grpc/grpc-js: ADDRESS TOKEN CONTRACT CASES on the command line, a line of JSON each.
// CONTRACT is the folder of the .proto files; CASES is a file of what is sent, and of descriptors.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import { fromJSON, loadSync } from "@grpc/proto-loader";

const [address, token, contract, cases] = process.argv.slice(2);
const make = JSON.parse(readFileSync(cases, "utf8"));
const NAMES = Object.fromEntries(Object.entries(grpc.status).map(([name, code]) => [code, name]));

const loaded = grpc.loadPackageDefinition(
  loadSync(
    ["embeddings", "logits", "tokenizer"].map((name) => `headstream/v1/${name}_service.proto`),
    { includeDirs: [contract], keepCase: true, longs: Number, enums: String },
  ),
).headstream.v1;
const health = grpc.loadPackageDefinition(
  fromJSON({
    nested: {
      grpc: {
        nested: {
          health: {
            nested: {
              v1: {
                nested: {
                  HealthCheckRequest: { fields: { service: { type: "string", id: 1 } } },
                  HealthCheckResponse: { fields: { status: { type: "int32", id: 1 } } },
                  Health: {
                    methods: {
                      Check: { requestType: "HealthCheckRequest", responseType: "HealthCheckResponse" },
                    },
                  },
                },
              },
            },
          },
        },
      },
    },
  }),
).grpc.health.v1;

const plain = grpc.credentials.createInsecure();
const embeddings = new loaded.EmbeddingsService(address, plain);
const logits = new loaded.LogitsService(address, plain);
const tokenizer = new loaded.TokenizerService(address, plain);

const metadata = (given = token) => {
  const made = new grpc.Metadata();
  made.set("authorization", `Bearer ${given}`);
  made.set("x-request-id", make.request_id);
  return made;
};
const until = (seconds) => ({ deadline: new Date(Date.now() + seconds * 1000) });

const unary = (client, method, request, given = metadata()) =>
  new Promise((resolve, reject) => {
    client[method](request, given, until(make.long), (error, reply) =>
      error ? reject(error) : resolve(reply),
    );
  });
const all = async (call) => {
  const replies = [];
  for await (const reply of call) replies.push(reply);
  return replies;
};
const vector = (reply) => reply.results[0].embedding.vectors.data.toString("base64");
const raw = (bytes) => bytes;

const CASES = {
  unary: async () => vector(await unary(embeddings, "Embed", make.embed)),
  server_stream: async () =>
    (await all(logits.Generate(make.generate_short, metadata(), until(make.long))))
      .filter((event) => event.step)
      .map((event) => event.step.token_id),
  bidi: async () => {
    const call = embeddings.EmbedStream(metadata(), until(make.long));
    for (const request of make.stream) call.write(request);
    call.end();
    return (await all(call)).flatMap((reply) => reply.answers.map((answer) => answer.id)).sort();
  },
  error_details: () => unary(embeddings, "Embed", make.embed_bad),
  deadline: () => all(logits.Generate(make.generate_endless, metadata(), until(make.soon))),
  cancel: () => {
    const call = logits.Generate(make.generate_endless, metadata(), until(make.long));
    call.once("data", () => call.cancel());
    return new Promise((resolve, reject) => {
      call.on("data", () => {});
      call.on("error", reject);
      call.on("end", resolve);
    });
  },
  large_reply: async () =>
    (await unary(tokenizer, "Tokenize", { text: make.large })).tokens.ids.length,
  too_large: () => unary(tokenizer, "Tokenize", { text: "x".repeat(make.too_large) }),
  metadata: () =>
    new Promise((resolve, reject) => {
      const call = embeddings.Embed(make.embed, metadata(), until(make.long), (error) =>
        error ? reject(error) : undefined,
      );
      call.on("metadata", (headers) => resolve(headers.get("x-request-id")[0]));
    }),
  wrong_token: () => unary(embeddings, "Embed", make.embed, metadata("hs_x")),
  gzip: async () => {
    const options = { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip };
    const client = new loaded.EmbeddingsService(address, plain, options);
    return vector(await unary(client, "Embed", make.embed));
  },
  reflection: async () => {
    // A request that lists services: field 7, a string. grpc-js has no messages of reflection.
    const path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    const call = embeddings.makeBidiStreamRequest(path, raw, raw, metadata(), until(make.long));
    call.write(Buffer.from([0x3a, 0x00]));
    call.end();
    return Buffer.concat(await all(call)).includes(make.service);
  },
  health: async () => {
    const reply = await unary(new health.Health(address, plain), "Check", {}, new grpc.Metadata());
    return reply.status === 1 ? "SERVING" : reply.status;
  },
  unknown_method: () =>
    new Promise((resolve, reject) => {
      const given = [Buffer.alloc(0), metadata(), until(make.long)];
      embeddings.makeUnaryRequest(`/${make.unknown}`, raw, raw, ...given, (error, reply) =>
        error ? reject(error) : resolve(reply),
      );
    }),
};

// The field that an error's details name: their messages are not among grpc-js's own.
const fieldOf = (error) => {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  return details?.includes(make.bad_field) ? make.bad_field : null;
};

for (const [name, run] of Object.entries(CASES)) {
  let seen;
  try {
    seen = { code: "OK", value: (await run()) ?? null };
  } catch (error) {
    seen = { code: NAMES[error.code] ?? String(error), value: fieldOf(error) };
  }
  console.log(JSON.stringify({ case: name, ...seen }));
}
process.exit(0);
