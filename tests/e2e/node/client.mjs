// A client that shares no code with the project: the proto files and grpc-js.
//
// usage: node client.mjs SOCKET PROTO_DIR PROMPT MAX_TOKENS CANCEL_AFTER
// Generates greedily and prints one JSON line: {"text", "outcome"}, or {"text", "cancelled"} when it cancelled
// after CANCEL_AFTER messages (0: never).
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const [socket, protoDir, prompt, maxTokens, cancelAfter] = process.argv.slice(2);
const definition = loadSync("smolora/v1/generation.proto", {
  includeDirs: [protoDir],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { GenerationService } = grpc.loadPackageDefinition(definition).smolora.v1;
const client = new GenerationService(`unix://${socket}`, grpc.credentials.createInsecure());

const call = client.Generate({
  prompt,
  sampling: { max_tokens: Number(maxTokens), temperature: 0 },
});
let text = "";
let outcome = null;
let messages = 0;
call.on("data", (message) => {
  messages += 1;
  if (message.event === "text") text += message.text;
  else outcome = message.outcome;
  if (messages === Number(cancelAfter)) call.cancel();
});
call.on("error", (error) => {
  if (error.code === grpc.status.CANCELLED) {
    console.log(JSON.stringify({ text, cancelled: true }));
    process.exit(0);
  }
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exit(1);
});
call.on("end", () => {
  console.log(JSON.stringify({ text, outcome }));
  client.close();
});
