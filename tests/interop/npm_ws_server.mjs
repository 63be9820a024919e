// Offers the conversation of conversation.py as a server, with npm's ws.
//
//     node npm_ws_server.mjs [CERTIFICATE.pem KEY.pem]
//
// Prints its port and serves until its standard input ends.
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { WebSocketServer } from "ws";

const [certificate, key] = process.argv.slice(2);
const server = certificate
  ? createSecureServer({ cert: readFileSync(certificate), key: readFileSync(key) })
  : createServer();
const sockets = new WebSocketServer({
  server,
  perMessageDeflate: true, // used only by clients that offer it
  handleProtocols: (protocols) => (protocols.has("chat") ? "chat" : false),
});

sockets.on("connection", (socket, request) => {
  socket.on("error", (error) => console.error(error));
  switch (request.url) {
    case "/echo":
      socket.on("message", (data, binary) => socket.send(data, { binary }));
      break;
    case "/scatter":
      socket.on("message", (data, binary) => {
        const text = data.toString();
        for (let begin = 0; begin < (binary ? data : text).length; ) {
          const end = begin + randomInt([1, 2, 200, 1 << 17][randomInt(4)]);
          const piece = binary ? data.subarray(begin, end) : text.slice(begin, end);
          socket.send(piece, { binary, fin: false });
          begin = end;
        }
        socket.send("", { binary, fin: true });
      });
      break;
    case "/fragments":
      socket.send("fragmented ", { fin: false });
      socket.ping("between the frames");
      socket.send("", { fin: false });
      socket.send("in pieces");
      socket.close(1000);
      break;
    case "/close":
      socket.close(4001, "as you wished");
      break;
    case "/ping":
      socket.on("pong", (data) => socket.send(data.toString() === "there?" ? "pong" : "wrong"));
      socket.ping("there?");
      break;
  }
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
