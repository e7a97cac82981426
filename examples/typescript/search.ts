// Stores two codes in a new collection, searches, and prints the hits as JSON: node build/search.js HOST:PORT COLLECTION
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { SearchService } from "./generated/lookalike/v1/search_pb.js";

const [address = "127.0.0.1:7700", collection = "typescript"] = process.argv.slice(2);

// Sends an API key, if the cluster requires one.
const withKey: Interceptor = (next) => (request) => {
  const key = process.env.LOOKALIKE_API_KEY;
  if (key) request.header.set("authorization", `Bearer ${key}`);
  return next(request);
};

const client = createClient(
  SearchService,
  createGrpcTransport({
    baseUrl: `http://${address}`,
    interceptors: [withKey],
    defaultTimeoutMs: 10_000,
    readMaxBytes: 64 * 1024 * 1024,
  }),
);

const created = await client.createCollection({ name: collection, space: { case: "bits", value: 64 } });
const fingerprint = created.collection!.codeSpace!.fingerprint;

await client.upsert({
  collection,
  fingerprint,
  records: [
    { key: "near", content: { case: "code", value: new Uint8Array([0, 0, 0, 0, 0, 0, 0, 1]) } },
    { key: "far", content: { case: "code", value: new Uint8Array(8).fill(255) }, attributes: '{"label": "far"}' },
  ],
});

const answer = await client.search({
  collection,
  fingerprint,
  query: { kind: { case: "code", value: new Uint8Array(8) } },
  options: { k: 10, includeAttributes: true },
});
const hits = answer.hits.map(({ key, distance, attributes }) => ({ key, distance, attributes }));
console.log(JSON.stringify({ hits, exact: answer.exact }));

try {
  await client.get({ collection: "nowhere", keys: ["a"] });
} catch (error) {
  const failure = ConnectError.from(error);
  console.log(
    JSON.stringify({
      code: Code[failure.code],
      error: failure.metadata.get("lookalike-error"),
      text: failure.rawMessage,
    }),
  );
}
