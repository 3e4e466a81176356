import { type Command, PROTOCOL } from "../protocol.ts";
import type { Link, LinkEvents, Surroundings } from "./link.ts";

/** The protocol over a WebSocket, the way it is made for. */
export function openWebSocket(url: string, events: LinkEvents, { WebSocket }: Surroundings): Link {
  if (WebSocket === undefined) {
    queueMicrotask(() => events.ended({ kind: "blocked", message: "there is no WebSocket here" }));
    return { talks: true, send() {}, follow() {}, close() {} };
  }
  const socket = new WebSocket(url, PROTOCOL);
  let opened = false;
  let done = false;
  socket.onopen = () => {
    opened = true;
    if (!done) events.opened();
  };
  socket.onmessage = (event: MessageEvent) => {
    if (!done) events.message(typeof event.data === "string" ? event.data : "");
  };
  socket.onclose = (event: CloseEvent) => {
    if (done) return;
    done = true;
    const message = event.reason === "" ? `the connection was closed (${event.code})` : event.reason;
    events.ended({ kind: opened ? "closed" : "blocked", code: event.code, message });
  };
  return {
    talks: true,
    send(command: Command) {
      if (socket.readyState === 1) socket.send(JSON.stringify(command));
    },
    follow() {},
    close() {
      done = true;
      socket.close(1000);
    },
  };
}
