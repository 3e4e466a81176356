import { connect } from "@ticker/sdk";
import { TickerProvider } from "@ticker/sdk/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { Fault } from "./Fault";
import "./styles.css";

const query = new URLSearchParams(location.search);
const source = query.get("replay");
const page = location.href.replace(/[?#].*$/, "").replace(/[^/]*$/, "");

/** `?replay=day` plays a recording; what else is in the query of the page goes with it. */
function address(): string {
  if (source === null) return page;
  query.delete("replay");
  query.set("source", source);
  return `${page}v1/replay?${query}`;
}

const feed = connect(address(), { frames: true });
addEventListener("pagehide", (event) => {
  if (!event.persisted) feed.close();
});

const root = document.getElementById("root");
if (root === null) throw new Error("expected an element of id root");
createRoot(root).render(
  <StrictMode>
    <Fault>
      <TickerProvider feed={feed}>
        <App source={source} />
      </TickerProvider>
    </Fault>
  </StrictMode>,
);
