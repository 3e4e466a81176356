import { COLUMNS, type ColumnId } from "./columns";

/** Which columns are shown. */
export function Columns({ chosen, onChange }: { chosen: readonly ColumnId[]; onChange: (columns: readonly ColumnId[]) => void }) {
  return (
    <details className="menu" onBlur={(event) => !event.currentTarget.contains(event.relatedTarget) && (event.currentTarget.open = false)}>
      <summary>Columns</summary>
      <fieldset tabIndex={-1}>
        <legend className="unseen">Columns</legend>
        {COLUMNS.map(({ id, label }) => (
          <label key={id}>
            <input
              type="checkbox"
              checked={chosen.includes(id)}
              onChange={(event) => {
                const wanted = new Set(chosen);
                if (event.target.checked) wanted.add(id);
                else wanted.delete(id);
                onChange(COLUMNS.map((column) => column.id).filter((known) => wanted.has(known)));
              }}
            />
            {label}
          </label>
        ))}
      </fieldset>
    </details>
  );
}
