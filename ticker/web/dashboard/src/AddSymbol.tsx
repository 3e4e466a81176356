import { useFeed } from "@ticker/sdk/react";
import { type KeyboardEvent, type Ref, useEffect, useId, useState } from "react";
import { isSymbol } from "./lists";

const SHOWN = 12;

/** Type-ahead over what the server has (a combobox as ARIA's authoring practices have it). */
export function AddSymbol({ ref, onAdd }: { ref: Ref<HTMLInputElement>; onAdd: (symbols: readonly string[]) => void }) {
  const feed = useFeed();
  const id = useId();
  const [text, setText] = useState("");
  const [found, setFound] = useState<readonly string[]>([]);
  const [at, setAt] = useState(-1);
  const [open, setOpen] = useState(false);

  useEffect(() => {
    if (!open) return;
    let gone = false;
    const wait = setTimeout(() => {
      feed.symbols(text.trim(), SHOWN).then(
        ({ items }) => {
          if (!gone) setFound(items.map(({ symbol }) => symbol));
        },
        () => {
          if (!gone) setFound([]);
        },
      );
    }, 80);
    return () => {
      gone = true;
      clearTimeout(wait);
    };
  }, [feed, text, open]);

  function add(names: readonly string[]): void {
    const good = names.filter(isSymbol);
    if (good.length === 0) return;
    onAdd(good);
    setText("");
    setAt(-1);
    setOpen(false);
  }

  function pressed(event: KeyboardEvent): void {
    const moves: Record<string, number> = { ArrowDown: 1, ArrowUp: -1 };
    const by = moves[event.key];
    if (by !== undefined) {
      event.preventDefault();
      setOpen(true);
      const places = found.length + 1; // one of them is the text as it was typed
      setAt(((at + 1 + by + places) % places) - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const chosen = found[at];
      const [first] = found;
      const typed = text.split(/[\s,]+/).filter(Boolean);
      if (chosen !== undefined) add([chosen]);
      else if (typed.length === 1 && first !== undefined && !found.includes(typed[0] ?? "")) add([first]);
      else add(typed);
    } else if (event.key === "Escape" && open) {
      event.stopPropagation();
      setOpen(false);
      setAt(-1);
    }
  }

  const shown = open && found.length > 0;
  return (
    <div className="add" role="search">
      <input
        ref={ref}
        role="combobox"
        aria-label="Add symbols"
        aria-expanded={shown}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={shown && at >= 0 ? `${id}-${at}` : undefined}
        autoComplete="off"
        spellCheck={false}
        placeholder="Add a symbol"
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          setAt(-1);
          setOpen(true);
        }}
        onFocus={() => setOpen(true)}
        onBlur={() => setOpen(false)}
        onKeyDown={pressed}
      />
      <ul id={`${id}-list`} role="listbox" aria-label="Symbols" hidden={!shown}>
        {found.map((symbol, place) => (
          <li
            key={symbol}
            id={`${id}-${place}`}
            role="option"
            aria-selected={place === at}
            onMouseDown={(event) => {
              event.preventDefault();
              add([symbol]);
            }}
          >
            {symbol}
          </li>
        ))}
      </ul>
    </div>
  );
}
