import { useEffect, useRef } from "react";

const KEYS: readonly [string, string][] = [
  ["/", "add a symbol"],
  ["↑ ↓ Page Home End", "go through the list"],
  ["Enter", "open the symbol"],
  ["Delete", "remove the symbol"],
  ["Alt ↑ ↓", "move the symbol in the list"],
  ["Esc", "close what is open"],
  ["?", "this list"],
];

export function Shortcuts({ onClose }: { onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="keys" onClose={onClose}>
      <h2 id="keys">Keyboard</h2>
      <dl>
        {KEYS.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog">
        <button type="submit">Close</button>
      </form>
    </dialog>
  );
}
