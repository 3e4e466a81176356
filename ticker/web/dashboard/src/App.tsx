import { useFeed, useStatus } from "@ticker/sdk/react";
import { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "react";
import { AddSymbol } from "./AddSymbol";
import { type ColumnId, readColumns, type Sort } from "./columns";
import { Columns } from "./Columns";
import { Connection } from "./Connection";
import { MarketContext, troubleOf, useHash } from "./hooks";
import { change, type Lists, readLists, type WatchList } from "./lists";
import { ListTabs } from "./ListTabs";
import { Market } from "./market";
import { ReplayBar, Sources } from "./Replay";
import { addressOf, shared } from "./share";
import { keeper } from "./storage";
import { Shortcuts } from "./Shortcuts";
import { SymbolView } from "./SymbolView";
import { applyTheme, readTheme, type Theme } from "./theme";
import { Token } from "./Token";
import { WatchTable } from "./WatchTable";

const kept = keeper(() => localStorage);
const FIRST_SYMBOLS = 12;

export function App({ source }: { source: string | null }) {
  const feed = useFeed();
  const market = useMemo(() => new Market(feed), [feed]);
  const found = useRef(readLists(kept.read("lists")));
  const [state, dispatch] = useReducer(change, found.current ?? { lists: [{ name: "Watch list", symbols: [] }], active: 0 });
  const [columns, setColumns] = useState<readonly ColumnId[]>(() => readColumns(kept.read("columns")));
  const [sort, setSort] = useState<Sort | null>(null);
  const [theme, setTheme] = useState<Theme>(() => readTheme(kept.read("theme")));
  const [selected, setSelected] = useState<string | null>(null);
  const [help, setHelp] = useState(false);
  const [forgets, setForgets] = useState(false);
  const [said, setSaid] = useState("");
  const offered = useOffered();
  const add = useRef<HTMLInputElement>(null);

  const list: WatchList = source !== null ? { name: source, symbols: ["*"] } : (offered.list ?? state.lists[state.active] ?? EMPTY);

  useKept("lists", state, state.lists.some(({ symbols }) => symbols.length > 0), setForgets);
  useKept("columns", columns, true, setForgets);
  useKept("theme", theme, true, setForgets);
  useEffect(() => applyTheme(theme), [theme]);
  useEffect(() => market.watch(list.symbols), [market, list.symbols.join(",")]);
  useEffect(() => () => market.close(), [market]);

  const share = useCallback(() => {
    const address = addressOf(list, location.href);
    const copied = navigator.clipboard?.writeText(address) ?? Promise.reject(new Error("no clipboard"));
    copied.then(
      () => setSaid("The list's address is copied."),
      () => {
        history.replaceState(null, "", address);
        setSaid("The list is in this page's address.");
      },
    );
  }, [list]);

  useShortcuts({
    "/": () => add.current?.focus(),
    "?": () => setHelp(true),
    Escape: () => (help ? setHelp(false) : setSelected(null)),
  });

  return (
    <MarketContext value={market}>
      <div className="page" data-selected={selected !== null}>
        <header className="top">
          <h1>
            ticker
            {source !== null && <span className="source"> replay of {source}</span>}
          </h1>
          {source === null && <AddSymbol ref={add} onAdd={(symbols) => dispatch({ type: "add", symbols })} />}
          <div className="tools">
            <Sources current={source} />
            <Columns chosen={columns} onChange={setColumns} />
            {source === null && (
              <button type="button" onClick={share}>
                Share
              </button>
            )}
            <button type="button" onClick={() => setTheme(theme === "dark" ? "light" : theme === "light" ? "system" : "dark")}>
              Theme: {theme}
            </button>
            <button type="button" aria-label="Keyboard shortcuts" onClick={() => setHelp(true)}>
              ?
            </button>
          </div>
        </header>
        <Banner />
        <main className="main">
          <section className="list" aria-label="Watch list">
            {source === null && offered.list === null && <ListTabs state={state} dispatch={dispatch} />}
            {offered.list !== null && (
              <p className="offer">
                <span>
                  A shared list: <strong>{offered.list.name}</strong>
                </span>
                <button
                  type="button"
                  onClick={() => {
                    if (offered.list !== null) dispatch({ type: "create", ...offered.list });
                    offered.dismiss();
                  }}
                >
                  Keep it
                </button>
                <button type="button" onClick={offered.dismiss}>
                  Back to my lists
                </button>
              </p>
            )}
            {forgets && <p className="note">This browser keeps nothing for this page: lists are gone when it is closed.</p>}
            <WatchTable
              symbols={list.symbols}
              columns={columns}
              sort={sort}
              onSort={setSort}
              selected={selected}
              onSelect={setSelected}
              {...(source === null && offered.list === null ? { dispatch } : {})}
            />
          </section>
          {selected !== null && <SymbolView key={selected} symbol={selected} onClose={() => setSelected(null)} />}
        </main>
        <footer className="bottom">
          {source !== null && <ReplayBar source={source} />}
          <Connection />
          <p className="credit">
            Charts by <a href="https://www.tradingview.com/">TradingView</a> Lightweight Charts
          </p>
        </footer>
        <p className="unseen" role="status">
          {said}
        </p>
        {help && <Shortcuts onClose={() => setHelp(false)} />}
        {source === null && found.current === null && <FirstVisit onSymbols={(symbols) => dispatch({ type: "add", symbols })} />}
        <Token />
      </div>
    </MarketContext>
  );
}

const EMPTY: WatchList = { name: "", symbols: [] };

/** Finds what a first visit begins with: asked for at once, and again once there is a connection, if it takes one. */
function FirstVisit({ onSymbols }: { onSymbols: (symbols: string[]) => void }) {
  const feed = useFeed();
  const opened = useStatus().state === "open";
  const [missing, setMissing] = useState(true);
  const [failed, setFailed] = useState(false);
  const asking = missing && (opened || !failed);
  const found = useRef(onSymbols);
  useEffect(() => {
    found.current = onSymbols;
  });
  useEffect(() => {
    if (!asking) return;
    feed.symbols("", FIRST_SYMBOLS).then(
      ({ items }) => {
        setMissing(false);
        found.current(items.map(({ symbol }) => symbol));
      },
      () => setFailed(true), // the connection says why
    );
  }, [feed, asking]);
  return null;
}

/** What is wrong with what is shown, loud and clear; announced once, when it changes. */
function Banner() {
  const trouble = troubleOf(useStatus());
  return (
    <div className="banner" role="status" data-bad={trouble !== null}>
      {trouble !== null && <p>Prices are stale: {trouble}</p>}
    </div>
  );
}

/** A list that came with the address. */
function useOffered(): { list: WatchList | null; dismiss: () => void } {
  const hash = useHash();
  const [dismissed, setDismissed] = useState<string | null>(null);
  const list = useMemo(() => (hash === dismissed ? null : shared(hash)), [hash, dismissed]);
  const dismiss = useCallback(() => {
    setDismissed(location.hash);
    history.replaceState(null, "", location.pathname + location.search);
  }, []);
  return { list, dismiss };
}

function useKept(name: string, value: Lists | readonly ColumnId[] | Theme, worth: boolean, onForgets: (forgets: boolean) => void): void {
  useEffect(() => {
    if (worth && !kept.write(name, value)) onForgets(true);
  }, [name, value, worth, onForgets]);
}

function useShortcuts(actions: Record<string, () => void>): void {
  const newest = useRef(actions);
  useEffect(() => {
    newest.current = actions;
  });
  useEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      const typing = event.target instanceof HTMLElement && event.target.closest("input, select, textarea, dialog") !== null;
      if (event.ctrlKey || event.metaKey || event.altKey || (typing && event.key !== "Escape")) return;
      const action = newest.current[event.key];
      if (action === undefined) return;
      if (event.key !== "Escape") event.preventDefault();
      action();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}
