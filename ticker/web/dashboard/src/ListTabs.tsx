import { type Dispatch, useState } from "react";
import { type Lists, type ListsAction, NAME_CHARS_MAX } from "./lists";

/** The named lists: choose, make, name, delete. */
export function ListTabs({ state, dispatch }: { state: Lists; dispatch: Dispatch<ListsAction> }) {
  const [naming, setNaming] = useState<"create" | "rename" | null>(null);
  const [name, setName] = useState("");
  const active = state.lists[state.active];

  function begin(what: "create" | "rename"): void {
    setNaming(what);
    setName(what === "rename" ? (active?.name ?? "") : "");
  }

  function done(): void {
    if (naming === "create") dispatch({ type: "create", name, symbols: [] });
    if (naming === "rename") dispatch({ type: "rename", name });
    setNaming(null);
  }

  return (
    <div className="lists">
      <label className="choose">
        <span className="unseen">List</span>
        <select value={state.active} onChange={(event) => dispatch({ type: "select", index: Number(event.target.value) })}>
          {state.lists.map((list, at) => (
            <option key={list.name} value={at}>
              {list.name} ({list.symbols.length})
            </option>
          ))}
        </select>
      </label>
      {naming === null ? (
        <>
          <button type="button" onClick={() => begin("create")}>
            New
          </button>
          <button type="button" onClick={() => begin("rename")}>
            Rename
          </button>
          {state.lists.length > 1 && (
            <button type="button" onClick={() => dispatch({ type: "delete" })}>
              Delete
            </button>
          )}
        </>
      ) : (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            done();
          }}
        >
          <input
            aria-label={naming === "create" ? "Name of the new list" : "Name of the list"}
            autoFocus
            maxLength={NAME_CHARS_MAX}
            value={name}
            onChange={(event) => setName(event.target.value)}
            onKeyDown={(event) => {
              if (event.key === "Escape") setNaming(null);
            }}
          />
          <button type="submit">OK</button>
          <button type="button" onClick={() => setNaming(null)}>
            Cancel
          </button>
        </form>
      )}
    </div>
  );
}
