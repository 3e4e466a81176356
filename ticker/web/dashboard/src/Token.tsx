import { useFeed, useStatus } from "@ticker/sdk/react";
import { useEffect, useRef, useState } from "react";

const REFUSALS = new Set(["auth_required", "auth_failed", "4401", "401"]);

/** A server that asks for a token is given one by hand; it is kept nowhere. */
export function Token() {
  const feed = useFeed();
  const { state, error } = useStatus();
  const [token, setToken] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  const asked = state === "closed" && error !== null && REFUSALS.has(error.code);
  useEffect(() => {
    if (asked) dialog.current?.showModal();
  }, [asked]);
  if (!asked) return null;
  return (
    <dialog ref={dialog} aria-labelledby="token">
      <form
        method="dialog"
        onSubmit={() => {
          feed.reconnect(token);
          setToken("");
        }}
      >
        <h2 id="token">This server asks for a token</h2>
        <p>{error.message}</p>
        <label>
          Token
          <input type="password" autoComplete="off" required value={token} onChange={(event) => setToken(event.target.value)} />
        </label>
        <button type="submit">Connect</button>
      </form>
    </dialog>
  );
}
